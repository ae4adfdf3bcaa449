# SPDX-License-Identifier: Apache-2.0
"""One modality or two: images whose relation is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from regplugins.registration import is_one_modality, modality_statistics, scale_percentiles
from regplugins.spatial import warp

SHAPE = (40, 44, 36)


def anatomy() -> Tensor:
    """A ball of five tissues, blurred, ``(1, 1, *SHAPE)``, on a background of zeros."""
    random = np.random.default_rng(3)
    smooth = gaussian_filter(random.standard_normal(SHAPE), 3)
    tissue = np.digitize(smooth, np.quantile(smooth, [0.2, 0.4, 0.6, 0.8]))
    center = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij"))
    values = gaussian_filter(np.array([0.3, 0.45, 0.6, 0.75, 0.9])[tissue], 1)
    return torch.from_numpy(np.where((center**2).sum(axis=0) < 0.9, values, 0))[None, None].float()


def moved(image: Tensor, voxels: float) -> Tensor:
    """Warped by a smooth field of up to so many voxels."""
    generator = torch.Generator().manual_seed(1)
    coarse = 2 * torch.rand(1, 3, 4, 4, 4, generator=generator) - 1
    return warp(image, voxels * F.interpolate(coarse, size=SHAPE, mode="trilinear"))


def noise(image: Tensor, seed: int) -> Tensor:
    return image + 0.03 * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)) * (image > 0.1)


def shading(image: Tensor) -> Tensor:
    """A bias field that raises the intensity by half from one side to the other."""
    return image * torch.linspace(-0.2, 0.2, SHAPE[0]).exp().view(-1, 1, 1)


def statistics(moving: Tensor, fixed: Tensor) -> dict[str, float]:
    return modality_statistics(torch.stack([scale_percentiles(image[0, 0]) for image in (moving, fixed)]))


@pytest.mark.parametrize(
    "other",
    [
        lambda image: image,
        lambda image: 40 + 300 * image,
        shading,
        lambda image: moved(image, 3.0),
        lambda image: shading(moved(5 * image, 3.0)),
    ],
)
def test_one_modality_whatever_its_scale_noise_shading_and_motion(other):
    image = anatomy()
    assert is_one_modality(statistics(other(noise(image, 1)), noise(image, 2)))


@pytest.mark.parametrize(
    "contrast",
    [
        lambda image: (image > 0) * (1.2 - image),  # T1 and T2
        lambda image: (image > 0) * (0.2 + (image - 0.6).abs() * 2),  # dark in the middle of the range
        lambda image: image**4,  # in the same order, but distributed otherwise
        lambda image: (image > 0) * (0.4 + 0.3 * torch.sin(12 * image)),
    ],
)
@pytest.mark.parametrize("voxels", [0.0, 3.0])
def test_other_contrasts_are_two(contrast, voxels):
    image = anatomy()
    assert not is_one_modality(statistics(contrast(moved(noise(image, 1), voxels)), noise(image, 2)))


def test_images_that_do_not_match_are_two():
    image = anatomy()
    assert not is_one_modality(statistics(image.flip(2).transpose(2, 3).reshape(image.shape), image))


def test_the_figures_of_a_linear_and_of_a_symmetric_relation():
    x = torch.linspace(0.1, 0.9, 10_000).view(100, 100)
    assert modality_statistics(torch.stack([x, 0.1 + 0.8 * x])) == pytest.approx(
        {"linearity": 1.0, "distribution": 1.0}, abs=1e-2
    )
    assert modality_statistics(torch.stack([1 - x, x]))["linearity"] == pytest.approx(-1, abs=1e-2)
    assert modality_statistics(torch.stack([0.1 + (x - 0.5).square(), x]))["linearity"] == pytest.approx(0, abs=1e-2)


def test_little_is_not_judged():
    pair = torch.zeros(2, 20, 20)
    pair[:, :10, :10] = torch.rand(10, 10)
    assert modality_statistics(pair) == {"linearity": 0.0, "distribution": 0.0}
    constant = torch.stack([torch.full((20, 20), 0.5), torch.rand(20, 20)])
    assert modality_statistics(constant) == {"linearity": 0.0, "distribution": 0.0}


def test_a_mask_counts():
    image = anatomy()
    spoilt = image.clone()
    spoilt[..., :22, :] = (image[..., :22, :] > 0) * (1.2 - image[..., :22, :])
    pair = torch.stack([scale_percentiles(one[0, 0]) for one in (spoilt, image)])
    mask = torch.ones(SHAPE)
    mask[:, :22] = 0
    assert not is_one_modality(modality_statistics(pair))
    assert modality_statistics(pair, mask)["linearity"] > 0.95
