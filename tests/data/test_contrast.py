# SPDX-License-Identifier: Apache-2.0
"""Random contrasts of label maps and images, compared with their definitions and with SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandGaussianNoise
from scipy.ndimage import gaussian_filter
from torch import Tensor

from regplugins.data import RandAxisResolution, RandContrast, RandLabelContrast, RandRemap
from regplugins.data.contrast import AIR, BONE, FLUID, GRAY, SCALP, SOFT, STRUCTURE, UNKNOWN, WHITE

SHAPES = pytest.mark.parametrize("shape", [(20, 24, 22), (40, 50)], ids=["3-D", "2-D"])
STRUCTURES = [AIR, FLUID, GRAY, WHITE, STRUCTURE * 3 + GRAY, STRUCTURE * 7 + UNKNOWN, STRUCTURE * 200 + UNKNOWN]


def blocks(shape: tuple[int, ...], numbers: list[int]) -> Tensor:
    """Slabs of labels along the first axis."""
    place = torch.arange(shape[0]) * len(numbers) // shape[0]
    labels = torch.tensor(numbers)[place]
    return labels.view(1, -1, *[1] * (len(shape) - 1)).expand(1, *shape).to(torch.int32)


def drawn(transform, seed: int):
    transform.set_random_state(seed=seed)
    transform.randomize()
    return transform


class TestLabels:
    @SHAPES
    def test_without_texture_and_blur_each_label_has_its_mean(self, shape):
        contrast = drawn(RandLabelContrast(texture=0.0, blur=(0, 0)), 3)
        labels = blocks(shape, STRUCTURES)
        image = contrast(labels)
        assert image.shape == labels.shape and image.dtype == torch.float32
        values = []
        for number in STRUCTURES:
            (value,) = image[labels == number].unique().tolist()
            assert value == pytest.approx(contrast.means[number // STRUCTURE, number % STRUCTURE], abs=1e-6)
            values.append(value)
        assert values[0] == 0 and len(set(values)) == len(STRUCTURES)

    def test_texture_has_the_standard_deviation_of_its_label(self):
        contrast = drawn(RandLabelContrast(texture=0.2, blur=(0, 0)), 5)
        labels = blocks((60, 40, 40), [AIR, GRAY, WHITE])
        image = contrast(labels)
        assert not image[labels == AIR].any()
        for tissue in (GRAY, WHITE):
            values = image[labels == tissue]
            assert float(values.std()) == pytest.approx(contrast.textures[0, tissue], rel=0.02)
            assert float(values.mean()) == pytest.approx(contrast.means[0, tissue], abs=0.005)

    @SHAPES
    def test_partial_volume_is_a_gaussian(self, shape):
        sharp, blurred = (drawn(RandLabelContrast(texture=0.0, blur=blur), 1) for blur in ((0, 0), (1.1, 1.1)))
        labels = blocks(shape, [AIR, GRAY, WHITE])
        expected = gaussian_filter(sharp(labels)[0].double().numpy(), 1.1, mode="nearest")
        # MONAI's kernel is integrated over voxels, SciPy's is sampled.
        np.testing.assert_allclose(blurred(labels)[0].numpy(), expected, atol=0.02)

    def test_several_maps_share_a_contrast_but_not_their_texture(self):
        contrast = drawn(RandLabelContrast(), 0)
        labels = blocks((30, 30, 30), [AIR, GRAY, WHITE])
        first, second = contrast(labels), contrast(labels)
        assert not torch.equal(first, second)
        for tissue in (GRAY, WHITE):
            one, other = (float(image[labels == tissue].mean()) for image in (first, second))
            assert one == pytest.approx(other, abs=0.01)

    @pytest.mark.parametrize(
        ("modality", "order"),
        [
            ("ct", (AIR, SCALP, FLUID, WHITE, BONE)),
            ("t1", (AIR, FLUID, GRAY, WHITE)),
            ("t2", (AIR, WHITE, GRAY, FLUID)),
        ],
    )
    def test_tissues_have_the_order_of_the_modality(self, modality, order):
        contrast = RandLabelContrast([modality], texture=0.0, blur=(0, 0))
        for seed in range(20):
            image = drawn(contrast, seed)(blocks((20, 4, 4), list(order)))[0, :, 0, 0].unique_consecutive()
            # A CT's window may clip air and bone, or fat.
            assert (image.diff() > 0).all() if modality != "ct" else (image.diff() >= 0).all()
            assert image.min() >= 0 and image.max() <= 1

    def test_bone_is_brightest_in_a_ct_and_dark_in_an_mr(self):
        labels = blocks((12, 4, 4), [SOFT, BONE])
        for modality, is_brighter in (("ct", True), ("t1", False), ("flair", False)):
            contrast = RandLabelContrast([modality], texture=0.0, blur=(0, 0))
            for seed in range(20):
                image = drawn(contrast, seed)(labels)
                assert bool(image[labels == BONE].mean() > image[labels == SOFT].mean()) == is_brighter

    def test_random_contrasts_put_tissues_in_every_order(self):
        contrast, labels = RandLabelContrast(texture=0.0, blur=(0, 0)), blocks((9, 4, 4), [FLUID, GRAY, WHITE])
        orders = {tuple(drawn(contrast, seed)(labels)[0, ::3, 0, 0].argsort().tolist()) for seed in range(60)}
        assert len(orders) == 6

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"modalities": ["pet"]}, "modality must be one of"),
            ({"texture": -0.1}, "texture must be at least 0"),
            ({"blur": (1.0, 0.5)}, "blur two ascending numbers"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            RandLabelContrast(**options)


class TestRemap:
    def test_image_is_a_function_of_the_intensity(self):
        levels = torch.rand(1, 12, 10, 8).mul(40).round() / 40
        for seed in range(10):
            image = drawn(RandRemap(prob=1.0), seed)(levels)
            assert image.min() >= 0 and image.max() <= 1
            for level in levels.unique():
                assert image[levels == level].unique().numel() == 1
            assert not image[levels == 0].any()

    def test_rises_or_not_and_is_smooth(self):
        ramp = torch.linspace(0, 1, 2001)[None, None]
        rising = [drawn(RandRemap(1.0, monotonic=1.0), seed)(ramp).diff() for seed in range(10)]
        assert all((steps >= 0).all() for steps in rising)
        assert all(steps.abs().max() < 0.01 for steps in rising)
        free = [drawn(RandRemap(1.0, monotonic=0.0), seed)(ramp).diff() for seed in range(10)]
        assert sum(bool((steps < 0).any()) for steps in free) >= 8

    def test_share_of_changes(self):
        ramp = torch.linspace(0, 1, 101)[None, None]
        changed = sum(not torch.equal(drawn(RandRemap(0.3), seed)(ramp), ramp) for seed in range(400))
        assert abs(changed / 400 - 0.3) < 3.3 * (0.3 * 0.7 / 400) ** 0.5

    @pytest.mark.parametrize("options", [{"prob": 1.1}, {"monotonic": -1.0}, {"knots": 2}])
    def test_bad_options(self, options):
        with pytest.raises(ValueError, match="prob and monotonic must be between 0 and 1 and knots at least 3"):
            RandRemap(**options)


class TestResolution:
    @SHAPES
    def test_nothing_is_displaced(self, shape):
        """A ramp stays a ramp away from the borders."""
        coarse = RandAxisResolution(prob=1.0, factor=3.0)
        for axis, size in enumerate(shape, start=1):
            place = torch.arange(size, dtype=torch.float32)
            ramp = place.view([-1 if k == axis else 1 for k in range(len(shape) + 1)]).expand(1, *shape)
            for seed in range(5):
                inner = (coarse.set_random_state(seed=seed)(ramp) - ramp).narrow(axis, 6, size - 12)
                assert inner.abs().max() < 1e-3 * size

    @SHAPES
    def test_fine_detail_is_lost_and_the_mean_is_kept(self, shape):
        image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
        found = RandAxisResolution(prob=1.0, factor=3.0).set_random_state(seed=2)(image)
        assert found.std() < 0.7 * image.std()
        assert abs(float(found.mean() - image.mean())) < 0.05

    def test_factor_one_changes_nothing(self):
        image = torch.rand(1, 9, 8, 7)
        torch.testing.assert_close(RandAxisResolution(prob=1.0, factor=1.0)(image), image)

    @pytest.mark.parametrize("options", [{"prob": -0.1}, {"factor": 0.5}])
    def test_bad_options(self, options):
        with pytest.raises(ValueError, match="prob must be between 0 and 1 and factor at least 1"):
            RandAxisResolution(**options)


class TestContrast:
    @pytest.fixture
    def contrast(self) -> RandContrast:
        noise = Compose([RandGaussianNoise(prob=1.0, std=0.05)])
        return RandContrast(RandLabelContrast(), RandRemap(prob=1.0), noise)

    def test_same_seed_same_image_other_seed_another(self, contrast):
        sources = {"label_map": blocks((16, 18, 14), STRUCTURES)}, {"image": torch.rand(1, 16, 18, 14)}
        for source in sources:
            first, same, other = (drawn(contrast, seed)(source) for seed in (4, 4, 5))
            assert type(first) is Tensor
            assert torch.equal(first, same) and not torch.equal(first, other)

    def test_an_acquisition_of_its_own_for_each_image(self, contrast):
        source = {"image": torch.rand(1, 16, 18, 14)}
        drawn(contrast, 0)
        first, second = contrast(source), contrast(source)
        difference = first - second
        assert 0 < float(difference.std()) < 0.3
        assert float(np.corrcoef(first.flatten(), second.flatten())[0, 1]) > 0.7

    def test_scaled_to_one(self, contrast):
        for seed in range(5):
            image = drawn(contrast, seed)({"label_map": blocks((16, 18, 14), STRUCTURES)})
            assert image.min() == 0 and image.max() == 1
