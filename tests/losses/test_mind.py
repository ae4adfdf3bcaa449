# SPDX-License-Identifier: Apache-2.0
"""Self-similarity descriptors and their loss against the formula and finite differences."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from regplugins.losses import MIND, MINDLoss, _mind_fused

NEIGHBORHOODS = ["mind", "ssc"]
NORMS = ["l1", "l2"]


@pytest.fixture(params=[61, None], ids=["chunks", "whole"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process images in many chunks, each smaller than a patch, or in one."""
    if request.param is not None:
        monkeypatch.setitem(_mind_fused._CHUNK, "cpu", request.param)


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return two correlated images in [0, 1] of inverse contrast."""
    target = torch.rand(shape, dtype=dtype)
    return 1 - 0.5 * target - 0.5 * torch.rand(shape, dtype=dtype), target


def edges(neighborhood: str, ndim: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    unit = np.eye(ndim, dtype=np.int64)
    if neighborhood == "mind":
        return [(0 * unit[k], sign * unit[k]) for k in range(ndim) for sign in (1, -1)]
    signs = [(1, 1), (-1, -1), (-1, 1), (1, -1)]
    return [(s * unit[j], t * unit[k]) for j, k in itertools.combinations(range(ndim), 2) for s, t in signs]


def from_the_formula(
    image: NDArray[np.float64], neighborhood: str, radius: int, dilation: int, weighting: str
) -> NDArray[np.float64]:
    """Return the descriptors (edges, *spatial) of an image (*spatial) from loops over voxels and edges."""
    steps = np.arange(-radius, radius + 1)
    line = np.ones(len(steps)) if weighting == "box" else np.exp(-0.5 * (steps / ((2 * radius + 1) / 3)) ** 2)
    weights = np.ones(())
    for _ in image.shape:
        weights = np.multiply.outer(weights, line / line.sum())

    def patch(center: NDArray[np.int64]) -> NDArray[np.float64]:
        lines = zip(center, image.shape, strict=True)
        return image[np.ix_(*(np.clip(middle + steps, 0, size - 1) for middle, size in lines))]

    pairs = edges(neighborhood, image.ndim)
    distances = np.empty((len(pairs), *image.shape))
    for voxel in np.ndindex(image.shape):
        for index, (a, b) in enumerate(pairs):
            difference = patch(voxel + dilation * a) - patch(voxel + dilation * b)
            distances[(index, *voxel)] = (weights * difference**2).sum()
    variance = distances.mean(0)
    variance = variance.clip(1e-3 * variance.mean(), 1e3 * variance.mean())
    features = np.exp(-distances / variance)
    return features / features.max(0)


@pytest.mark.parametrize("neighborhood", NEIGHBORHOODS)
@pytest.mark.parametrize("size", [(4, 2, 5), (6, 5), (3, 1, 4)])
def test_descriptors_are_those_of_the_formula(size: tuple[int, ...], neighborhood: str) -> None:
    image = torch.rand(size, dtype=torch.float64)
    # Where variances lie below their limit.
    image[..., -2:] *= 1e-3
    for radius, dilation, weighting in itertools.product((0, 1, 2), (1, 2), ("box", "gaussian")):
        expected = from_the_formula(image.numpy(), neighborhood, radius, dilation, weighting)
        actual = MIND(neighborhood, radius, dilation, weighting)(image[None, None])
        torch.testing.assert_close(actual, torch.from_numpy(expected[None]))


def test_samples_and_channels_are_described_one_by_one() -> None:
    image = torch.rand(2, 3, 6, 5, 4) * torch.tensor([1.0, 10.0, 100.0])[:, None, None, None]
    image[0, ..., -2:] *= 1e-4
    expected = [torch.cat([MIND()(image[b : b + 1, c : c + 1]) for c in range(3)], dim=1) for b in range(2)]
    torch.testing.assert_close(MIND()(image), torch.cat(expected))


def test_one_bright_voxel() -> None:
    # By hand: the voxel and its four neighbors have variances of 1 and 1/4 amid 10000 voxels, so that the upper limit
    # is 1000 * 2 / 10000 = 0.2. From the voxel itself all directions look alike.
    image = torch.zeros(1, 1, 100, 100)
    image[..., 40, 60] = 1
    expected = torch.ones(1, 4, 100, 100)
    for channel, (y, x) in enumerate([(39, 60), (41, 60), (40, 59), (40, 61)]):
        expected[:, channel, y, x] = math.exp(-1 / 0.2)
    torch.testing.assert_close(MIND("mind", radius=0)(image), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("neighborhood", NEIGHBORHOODS)
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_is_the_mean_difference_of_descriptors(neighborhood: str, norm: str, weighted: bool, chunks: None) -> None:
    arguments = ({"radius": 1}, {"radius": 2, "weighting": "gaussian"}, {"radius": 0, "dilation": 2})
    for size, options in itertools.product([(7, 5, 6), (9, 8), (3, 1, 12)], arguments):
        images = [image.requires_grad_() for image in pair((2, 2, *size))]
        with torch.no_grad():
            images[0][..., -3:] *= 1e-3
        mask = torch.rand(2, 1, *size, dtype=torch.float64) if weighted else None
        descriptors = [MIND(neighborhood, **options)(image) for image in images]
        difference = (descriptors[0] - descriptors[1]).abs() ** (1 if norm == "l1" else 2)
        weight = torch.ones(2, 1, *size) if mask is None else mask
        expected = (difference.mean(1, keepdim=True) * weight).sum() / weight.sum()
        actual = MINDLoss(neighborhood, norm=norm, **options)(*images, mask)
        torch.testing.assert_close(actual, expected)
        for ours, autograd in zip(
            torch.autograd.grad(actual, images), torch.autograd.grad(expected, images), strict=True
        ):
            torch.testing.assert_close(ours, autograd, rtol=1e-6, atol=1e-6 * autograd.abs().max().item())


@pytest.mark.parametrize("neighborhood", NEIGHBORHOODS)
def test_descriptors_are_differentiable(neighborhood: str) -> None:
    image = torch.rand(1, 2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MIND(neighborhood), image, fast_mode=True)


@pytest.mark.parametrize("neighborhood", NEIGHBORHOODS)
def test_the_least_is_where_images_are_aligned(neighborhood: str) -> None:
    volume = F.avg_pool3d(torch.rand(1, 1, 22, 22, 22), 3, 1)
    fixed = (1 - volume[..., 4:16]).square()
    losses = [MINDLoss(neighborhood)(volume[..., shift : shift + 12], fixed).item() for shift in range(9)]
    assert min(losses) == losses[4] < 0.7 * sorted(losses)[1]


@pytest.mark.parametrize("neighborhood", NEIGHBORHOODS)
@pytest.mark.parametrize("level", [0.0, 0.1, -1234.567, 1e-12])
def test_constant_images_say_nothing(neighborhood: str, level: float) -> None:
    # What resampling leaves of a constant is one but for rounding.
    constant = torch.full((1, 1, 9, 10, 11), level)
    rounded = constant * (1 + torch.finfo(torch.float32).eps * torch.randint(-1, 2, constant.shape))
    varied = torch.rand_like(constant)
    for image in (constant, rounded):
        features = MIND(neighborhood)(image.requires_grad_())
        assert torch.equal(features, torch.ones_like(features))
        features.square().sum().backward()
        assert torch.count_nonzero(image.grad) == 0
        for images in ((image, varied), (varied, image)):
            pred, target = (image.detach().clone().requires_grad_() for image in images)
            value = MINDLoss(neighborhood)(pred, target)
            value.backward()
            flat, other = (pred, target) if images[0] is image else (target, pred)
            assert torch.count_nonzero(flat.grad) == 0
            assert torch.count_nonzero(other.grad) > 0
            torch.testing.assert_close(value, 1 - MIND(neighborhood)(varied).mean())


@pytest.mark.parametrize("neighborhood", NEIGHBORHOODS)
@pytest.mark.parametrize("levels", [(0.0, 0.7), (0.3, 1.0), (1000.3, 1311.7), (-3.1e4, 7.7)])
def test_constant_parts_say_nothing(levels: tuple[float, float], neighborhood: str) -> None:
    steps = torch.full((1, 1, 8, 9, 24), levels[0])
    steps[..., 12:] = levels[1]
    far = torch.ones(24, dtype=torch.bool)
    far[7:17] = False
    for other in (steps.flip(-1), torch.rand_like(steps)):
        image = steps.clone().requires_grad_()
        features = MIND(neighborhood)(image)
        features[..., far].sum().backward()
        assert torch.all(features[..., far] == 1)
        assert torch.count_nonzero(image.grad) == 0
        assert features.min() < 0.9
        image.grad = None
        MINDLoss(neighborhood)(image, other).backward()
        assert image.grad.isfinite().all()
        assert torch.count_nonzero(image.grad[..., far]) == 0


def test_keeps_no_descriptors_for_the_gradient() -> None:
    pred, target = pair((1, 1, 30, 30, 30))
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        MINDLoss()(pred.requires_grad_(), target)
    # The image itself, and its padded gradient.
    assert sum(kept.values()) < 3 * pred.nbytes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("neighborhood", "cross"),
        ("radius", -1),
        ("radius", 1.5),
        ("dilation", 0),
        ("dilation", 2.5),
        ("weighting", "triangular"),
        ("norm", "l3"),
    ],
)
def test_unknown_arguments_are_refused(name: str, value: object) -> None:
    for kind in (MIND, MINDLoss) if name != "norm" else (MINDLoss,):
        with pytest.raises(ValueError, match=rf"{name} must be .*, got {value!r}"):
            kind(**{name: value})
