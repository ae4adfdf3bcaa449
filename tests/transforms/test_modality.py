# SPDX-License-Identifier: Apache-2.0
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from regplugins.transforms import (
    MODALITIES,
    LoadVolumesd,
    ModalityClassifier,
    OrderModalitiesd,
    RandIntensitiesd,
    RandTissuesd,
)


class Brightness(nn.Module):
    """Logits (MR, CT): an image with more bright than dark in it is a CT."""

    def __init__(self, steepness: float = 50.0) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(steepness))

    def forward(self, image: Tensor) -> Tensor:
        logit = self.steepness * (image.mean(dim=(1, 2, 3, 4)) - 0.5)
        return torch.stack([-logit, logit], dim=1)


def image(bright: float) -> MetaTensor:
    """Image with a given fraction of bright voxels."""
    values = torch.zeros(1, 20, 20, 20)
    values[:, : round(20 * bright)] = 700.0
    return MetaTensor(values, affine=torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64)))


def pair(fixed: float, moving: float) -> dict[str, object]:
    images = {"fixed": image(fixed), "moving": image(moving)}
    paths = {"fixed": "a.nii.gz", "moving": "b.nii.gz", "moving_label": "b_label.nii.gz"}
    label = MetaTensor(torch.ones(1, 20, 20, 20, dtype=torch.int32), affine=images["moving"].affine)
    return {**images, "moving_label": label, "paths": paths, "landmark_space": "RAS", "seconds": {}, "name": "x"}


def identifier(**options: float) -> ModalityClassifier:
    return ModalityClassifier(Brightness(**options), 2.0, (20, 20, 20))


def test_modality_and_its_probability():
    name, probability = identifier()(image(0.55))
    assert name == "CT"
    # Logits are -2.5 and 2.5.
    assert probability == pytest.approx(1 / (1 + math.exp(-5.0)), abs=1e-4)
    assert identifier()(image(0.1))[0] == "MR"


class TestOrder:
    def test_as_it_should_be(self):
        given = pair(0.1, 0.9)
        ordered = OrderModalitiesd("auto", identifier())(given)
        assert ordered["fixed"] is given["fixed"]
        assert ordered["paths"] == given["paths"]
        assert "warnings" not in ordered

    def test_swapped_with_all_that_belongs_to_it(self):
        given = pair(0.9, 0.1)
        ordered = OrderModalitiesd("auto", identifier())(given)
        assert ordered["fixed"] is given["moving"]
        assert ordered["moving"] is given["fixed"]
        assert ordered["fixed_label"] is given["moving_label"]
        assert "moving_label" not in ordered
        assert ordered["paths"] == {"moving": "a.nii.gz", "fixed": "b.nii.gz", "fixed_label": "b_label.nii.gz"}
        assert ordered["name"] == "x"
        assert ordered["seconds"]["order"] > 0
        (warning,) = ordered["warnings"]
        assert "fixed and moving were swapped" in warning and "fixed image of the result is b.nii.gz" in warning

    def test_left_alone(self):
        given = pair(0.9, 0.1)
        assert OrderModalitiesd("given", identifier())(given)["fixed"] is given["fixed"]

    @pytest.mark.parametrize(("bright", "name"), [(0.9, "CT"), (0.1, "MR")])
    def test_two_of_one_modality(self, bright, name):
        with pytest.raises(ValueError, match=rf"a.nii.gz is {name} .* and b.nii.gz is {name} .*one CT and one MR"):
            OrderModalitiesd("auto", identifier())(pair(bright, bright))

    def test_unsure(self):
        with pytest.raises(ValueError, match="too unsure to tell fixed from moving"):
            OrderModalitiesd("auto", identifier(steepness=1.0))(pair(0.9, 0.1))


class TestIntensities:
    RAMP = torch.linspace(-1000, 2000, 4096).view(1, 16, 16, 16)

    def changed(self, seed: int, image: Tensor = RAMP, **options: float) -> Tensor:
        source = RandIntensitiesd(noise=0.0, **options).set_random_state(seed)
        return source({"image": image})["image"]

    def test_keeps_the_order_of_intensities_or_turns_it(self):
        slopes = set()
        for seed in range(20):
            steps = self.changed(seed).flatten().diff()
            assert (steps >= 0).all() or (steps <= 0).all()
            slopes.add(bool((steps >= 0).all()))
        assert slopes == {True, False}

    def test_scale_and_offset_of_the_image_do_not_count(self):
        for seed in range(5):
            torch.testing.assert_close(self.changed(seed, 0.3 * self.RAMP - 70), self.changed(seed), atol=1e-5, rtol=0)

    def test_cuts_no_more_than_it_says(self):
        for seed in range(20):
            result = self.changed(seed, max_clip=0.2, inversion=0.0)
            assert result.min() >= 0 and result.max() <= 1
            assert (result <= 0).float().mean() < 0.21
            assert (result >= 1).float().mean() < 0.21

    def test_noise_and_seed(self):
        source = RandIntensitiesd(noise=0.1)
        first, again = (source.set_random_state(3)({"image": self.RAMP})["image"] for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, self.changed(3))

    @pytest.mark.parametrize("wrong", [{"max_clip": 0.5}, {"gamma": (2.0, 1.0)}, {"inversion": 2}, {"noise": -1}])
    def test_no_such_intensities(self, wrong):
        with pytest.raises(ValueError, match=r"max_clip must be in \[0, 0.5\)"):
            RandIntensitiesd(**wrong)


class TestTissues:
    RAMP = torch.linspace(0, 1, 4096).view(1, 16, 16, 16)

    def changed(self, seed: int, modality: str = "MR", **options: float) -> Tensor:
        source = RandTissuesd(**options).set_random_state(seed)
        return source({"image": self.RAMP, "modality": modality})["image"]

    @pytest.mark.parametrize("modality", MODALITIES)
    def test_air_stays_darkest_and_something_is_bright(self, modality):
        for seed in range(20):
            curve = self.changed(seed, modality, prob=1.0).flatten()
            assert curve[0] == curve.min() == 0
            assert curve.max() == pytest.approx(1.0, abs=1e-3)

    def test_tissues_of_an_mr_change_places(self):
        curves = [self.changed(seed, prob=1.0, black=1).flatten() for seed in range(20)]
        assert len({tuple(curve[[1200, 2400, 3600]].argsort().tolist()) for curve in curves}) > 3

    def test_tissues_of_a_ct_keep_their_order(self):
        curves = [self.changed(seed, "CT", prob=1.0).flatten() for seed in range(20)]
        assert all((curve.diff() >= 0).all() for curve in curves)
        assert len({round(float(curve[2400]), 3) for curve in curves}) > 10

    def test_as_often_as_it_says(self):
        often = sum(not torch.equal(self.changed(seed, prob=0.7), self.RAMP) for seed in range(200)) / 200
        assert often == pytest.approx(0.7, abs=0.1)


def test_flat_image(tmp_path):
    path = tmp_path / "flat.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(16.0).reshape(4, 4), np.eye(4)), path)
    with pytest.raises(ValueError, match=r"flat.nii.gz: 2-D, expected a 3-D image"):
        LoadVolumesd(["image"], spatial_dims=3)({"image": str(path)})
