# SPDX-License-Identifier: Apache-2.0
"""Initial alignment of a head or trunk with what is left of it: a slab, gaps, far away, turned round."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.layers import GaussianFilter
from scipy.spatial.transform import Rotation
from torch import Tensor

from regplugins.io import load_image
from regplugins.spatial import AffineTransform, Grid
from tests.registration.heads import aligned

CT = Path(__file__).parents[2] / "bundles/head_ct_mr_rigid/sample/moving.nii.gz"
SLAB = 60.0  # mm


@cache
def head() -> tuple[Tensor, Grid]:
    image = load_image(CT)
    return image.as_tensor().float(), Grid.from_image(image)


def motion(degrees: float, shift: tuple[float, float, float], axis: tuple[float, ...] = (0.5, -0.3, 0.81)) -> Tensor:
    """Homogeneous matrix of a rotation about the head's center, then a shift in mm."""
    center = head()[1].center.numpy()
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array(axis) / np.linalg.norm(axis)).as_matrix()
    matrix[:3, 3] = center + shift - matrix[:3, :3] @ center
    return torch.from_numpy(matrix)


def error(fixed: tuple[Tensor, Grid], moving: tuple[Tensor, Grid], truth: Tensor, init: str = "rigid") -> float:
    """Largest error in mm over the fixed field of view; the moving image is of a head moved by the truth."""
    image, grid = moving
    found = aligned(init, *fixed, image, Grid(grid.shape, truth @ grid.affine))
    sizes = [torch.tensor([0.0, size], dtype=torch.float64) for size in fixed[1].shape]
    corners = fixed[1].index_to_world(torch.cartesian_prod(*sizes))
    return float((found(corners) - AffineTransform(truth)(corners)).norm(dim=-1).max())


def slab(lowest: int) -> tuple[Tensor, Grid]:
    """60 mm of the head from a slice on."""
    image, grid = head()
    part = image[..., lowest : lowest + round(SLAB / float(grid.spacing[2]))]
    affine = grid.affine.clone()
    affine[:3, 3] += lowest * affine[:3, 2]
    return part, Grid(part.shape[1:], affine)


@pytest.mark.parametrize(("lowest", "is_fixed"), [(0, False), (20, True), (41, False)])
def test_a_slab_finds_its_place(lowest, is_fixed):
    pair = (slab(lowest), head()) if is_fixed else (head(), slab(lowest))
    assert error(*pair, motion(15.0, (20.0, 10.0, -30.0))) < 1


def trunk() -> tuple[Tensor, Grid]:
    """An elliptic cylinder of 480 mm with smooth random contents."""
    affine = torch.diag(torch.tensor([5.0, 5.0, 5.0, 1.0], dtype=torch.float64))
    shape = (72, 56, 96)
    noise = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))
    contents = GaussianFilter(3, 3.0)(noise)[0]
    x, y = (torch.linspace(-1, 1, size) for size in shape[:2])
    inside = (x[:, None] ** 2 + y**2 < 0.8)[None, ..., None]
    return (100 + 60 * contents / contents.std()).clamp(min=20) * inside, Grid(shape, affine)


@pytest.mark.parametrize(("lowest", "is_fixed"), [(2, True), (80, False)])
def test_a_slab_of_a_trunk_finds_its_place_in_another_contrast(lowest, is_fixed):
    """It lies some 200 mm from the middle, where no center or axis leads."""
    image, grid = trunk()
    other = torch.where(image > 0, 30 + (image - 110).abs(), 0.0)
    lowered = grid.affine.clone()
    lowered[:3, 3] += lowest * lowered[:3, 2]
    part = other[..., lowest : lowest + 12]
    slab = part, Grid(part.shape[1:], lowered)
    pair = (slab, (image, grid)) if is_fixed else ((image, grid), slab)
    assert error(*pair, motion(4.0, (250.0, -90.0, 300.0))) < 3


def test_half_a_head_finds_its_place():
    image, grid = head()
    half = image[:, : grid.shape[0] // 2]
    moving = half, Grid(half.shape[1:], grid.affine)
    assert error((image, grid), moving, motion(10.0, (12.0, -9.0, 7.0))) < 1


def test_no_data_outside_a_circle():
    image, grid = head()
    x, y = (torch.linspace(-1, 1, size) for size in grid.shape[:2])
    outside = (x[:, None] ** 2 + y**2 > 1)[None, ..., None].expand_as(image)
    assert error((image, grid), (image.masked_fill(outside, -1024.0), grid), motion(12.0, (10.0, -8.0, 9.0))) < 1


def test_zeros_outside_a_reslice():
    """Corners that a turned field of view does not reach are zero, which in a CT is water."""
    image, grid = head()
    places = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, size) for size in grid.shape], indexing="ij"))
    outside = (places[0] + places[1]).abs() > 1.3
    assert error((image, grid), (image.masked_fill(outside, 0.0), grid), motion(12.0, (10.0, -8.0, 9.0))) < 1


@pytest.mark.parametrize(
    "truth", [motion(0.0, (35.0, 0.0, 0.0)), motion(180.0, (5.0, 3.0, 4.0), (0.0, 0.0, 1.0))], ids=["35 mm", "turned"]
)
def test_far_apart(truth):
    assert error(head(), head(), truth) < 1
