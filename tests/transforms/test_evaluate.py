# SPDX-License-Identifier: Apache-2.0
"""Measures of a pair whose transform is known."""

import math
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from regplugins.spatial import AffineTransform, Grid
from regplugins.transforms import ApplyTransformPaird, EvaluatePaird


def measures(ndim: int, linear: torch.Tensor, shift: list[float]) -> dict[str, Any]:
    """Measures of an image through an affine map about the center of its field of view, which is off the origin."""
    affine = torch.diag(torch.tensor([2.0, 1.5, 3.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-40.0, 25.0, 7.0])
    image = MetaTensor(torch.rand(1, *(24, 20, 16)[:ndim]), affine=affine)
    center = Grid.from_image(image).center
    matrix = torch.eye(ndim + 1, dtype=torch.float64)
    matrix[:ndim, :ndim] = linear
    matrix[:ndim, ndim] = center - linear @ center + torch.tensor(shift, dtype=torch.float64)
    paths = {"fixed": "fixed.nii.gz", "moving": "moving.nii.gz"}
    pair = {"fixed": image, "moving": image, "paths": paths, "seconds": {}}
    return EvaluatePaird(warnings=False)(ApplyTransformPaird(AffineTransform(matrix))(pair))["metrics"]


def turn(degrees: float) -> torch.Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


@pytest.mark.parametrize("ndim", [2, 3])
def test_rotation_and_translation_of_the_affine_part(ndim: int) -> None:
    linear = torch.eye(ndim, dtype=torch.float64)
    linear[:2, :2] = turn(-25.0)
    found = measures(ndim, linear, [3.0, -4.0, 0.0][:ndim])["affine"]
    assert found == pytest.approx({"rotation_degrees": 25.0, "translation_mm": 5.0})


def test_stretch_is_no_rotation() -> None:
    stretch = torch.tensor([[1.1, 0.05, 0], [0.05, 0.9, 0], [0, 0, 1.2]], dtype=torch.float64)
    found = measures(3, stretch, [0.0, 0.0, 2.0])["affine"]
    assert found == pytest.approx({"rotation_degrees": 0.0, "translation_mm": 2.0}, abs=1e-5)


def test_an_identity_has_no_motion() -> None:
    assert "affine" not in measures(3, torch.eye(3, dtype=torch.float64), [0.0, 0.0, 0.0])
