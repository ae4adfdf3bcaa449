# SPDX-License-Identifier: Apache-2.0
"""Rotated and shifted poses and principal axes against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from regplugins.registration.poses import (
    center_of_mass,
    motions_about,
    principal_axes,
    rotated_poses,
    shifted_poses,
)
from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform, Grid
from tests.itk_truth import make_grid, rotation


def box(grid: Grid, axes: torch.Tensor, half: tuple[float, ...], center: torch.Tensor) -> Volume:
    """A bright box with the given axes (columns) and half lengths, mm."""
    places = (grid.coordinates() - center) @ axes
    inside = (places.abs() <= torch.tensor(half, dtype=places.dtype)).all(dim=-1)
    return Volume("box", inside.float() * 100, grid)


@pytest.mark.parametrize("ndim", [2, 3])
def test_axes_of_a_box(ndim: int) -> None:
    grid = make_grid((70, 66, 60)[:ndim], rotation(ndim, -15), (1.0, 1.1, 1.2)[:ndim], (5.0, -3.0, 8.0)[:ndim])
    truth = torch.from_numpy(rotation(ndim, 35))
    found = principal_axes(box(grid, truth, (25.0, 14.0, 7.0)[:ndim], grid.center))
    # Longest axis first, each known but for its direction.
    torch.testing.assert_close((found.T @ truth).abs(), torch.eye(ndim, dtype=torch.float64), atol=0.03, rtol=0)
    assert torch.linalg.det(found).item() == pytest.approx(1)


@pytest.mark.parametrize("ndim", [2, 3])
def test_poses_hold_the_turn_between_two_boxes(ndim: int) -> None:
    grid = make_grid((64, 64, 64)[:ndim], np.eye(ndim), (1.3,) * ndim, (0.0,) * ndim)
    half, turn = (26.0, 15.0, 8.0)[:ndim], torch.from_numpy(rotation(ndim, 77))
    fixed = box(grid, torch.eye(ndim, dtype=torch.float64), half, grid.center)
    moving = box(grid, turn, half, grid.center + 5)
    poses = rotated_poses(fixed, moving)
    rotations = poses[:, :ndim, :ndim]
    assert (rotations - turn).norm(dim=(1, 2)).min() < 0.05
    identities = torch.eye(ndim, dtype=torch.float64).expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.mT, identities)
    assert (torch.linalg.det(rotations) > 0).all()
    here, there = center_of_mass(fixed), center_of_mass(moving)
    for pose in poses:
        torch.testing.assert_close(AffineTransform(pose)(here), there)


def pair_of_views(whole: tuple[int, ...], part: tuple[int, ...], degrees: float) -> tuple[Grid, Grid]:
    """A straight field of view with voxels of 4 mm, and a turned one far away."""
    ndim = len(whole)
    straight = make_grid(whole, np.eye(ndim), (4.0,) * ndim, (5.0,) * ndim)
    return straight, make_grid(part, rotation(ndim, degrees), (4.0,) * ndim, (300.0,) * ndim)


def full(grid: Grid) -> Volume:
    return box(grid, torch.eye(grid.ndim, dtype=torch.float64), (30.0,) * grid.ndim, grid.center)


@pytest.mark.parametrize("is_fixed", [True, False])
@pytest.mark.parametrize("degrees", [0, 25])
@pytest.mark.parametrize(
    ("whole", "part"), [((60, 50, 70), (60, 50, 12)), ((60, 50, 70), (60, 14, 12)), ((60, 50), (60, 8))]
)
def test_a_shift_is_near_wherever_a_smaller_field_of_view_belongs(whole, part, degrees, is_fixed):
    straight, turned = pair_of_views(whole, part, degrees)
    pair = (turned, straight) if is_fixed else (straight, turned)
    poses = shifted_poses(*map(full, pair))
    ndim, sign = len(whole), 1 if is_fixed else -1
    # Where the smaller center lies in the larger field of view, from its center.
    places = sign * (poses[:, :ndim, ndim] - (pair[1].center - pair[0].center))
    lengths = 4.0 * torch.tensor(part)
    free = 4.0 * torch.tensor(whole) - lengths
    wanted = (torch.rand(200, ndim, generator=torch.Generator().manual_seed(0)).double() - 0.5) * free
    near = ((wanted[:, None] - places).abs() <= lengths / 6 + 1e-6).all(dim=-1)  # they are a third apart
    assert near.any(dim=1).all()


@pytest.mark.parametrize("degrees", [0, 25, 80])
def test_no_shifts_of_fields_of_view_that_are_alike(degrees):
    assert shifted_poses(*map(full, pair_of_views((40, 40, 40), (40, 40, 58), degrees))).shape == (0, 4, 4)


@pytest.mark.parametrize("part", [(8, 8, 8), (100, 100, 1), (30, 30, 1)])
def test_shifts_are_few_and_distinct(part):
    poses = shifted_poses(*map(full, pair_of_views((100, 100, 100), part, 0)))
    assert 2 <= len(poses) == len(poses.unique(dim=0)) <= 2_000
    assert torch.isfinite(poses).all()


def test_masks_limit_fields_of_view():
    grid = make_grid((40, 40, 120), np.eye(3), (4.0,) * 3, (5.0,) * 3)
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[..., 50:65] = True
    whole = full(grid)
    shifts = shifted_poses(replace(whole, mask=mask), whole)[:, :3, 3]
    assert shifts[:, 2].min().item() == pytest.approx(-4.0 * 50)
    assert shifts[:, 2].max().item() == pytest.approx(4.0 * 55)


@pytest.mark.parametrize(
    ("kind", "ndim", "linear"), [("rigid", 2, 1), ("rigid", 3, 3), ("affine", 2, 4), ("affine", 3, 9)]
)
def test_derivatives_of_motions(kind: str, ndim: int, linear: int) -> None:
    torch.manual_seed(0)
    parameters = 20 * torch.randn(3, linear + ndim, dtype=torch.float64, requires_grad=True)
    center = torch.tensor([20.0, -5.0, 8.0], dtype=torch.float64)[:ndim]
    weights = torch.randn(3, ndim + 1, ndim + 1, dtype=torch.float64)
    matrices, derivative = motions_about(kind, parameters, center, radius=60.0)
    (truth,) = torch.autograd.grad((weights * matrices).sum(), parameters)
    torch.testing.assert_close(derivative(weights), truth)
    if kind == "rigid":
        block = matrices[:, :ndim, :ndim]
        torch.testing.assert_close(block @ block.mT, torch.eye(ndim, dtype=torch.float64).expand_as(block))
        assert (torch.linalg.det(block) > 0).all()
    moved = matrices[:, :ndim, :ndim] @ center + matrices[:, :ndim, ndim]
    torch.testing.assert_close(moved - center, parameters[:, -ndim:])
