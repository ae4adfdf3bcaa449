# SPDX-License-Identifier: Apache-2.0
"""Rotated poses and principal axes against closed forms."""

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


@pytest.mark.parametrize("is_fixed", [True, False])
@pytest.mark.parametrize("sizes", [(60, 50, 12), (60, 14, 12), (60, 8)])
def test_a_shift_is_near_wherever_a_smaller_field_of_view_belongs(sizes: tuple[int, ...], is_fixed: bool) -> None:
    ndim = len(sizes)
    whole = make_grid((60, 50, 70)[:ndim] if ndim == 3 else (60, 50), np.eye(ndim), (4.0,) * ndim, (5.0,) * ndim)
    part = make_grid(sizes, np.eye(ndim), (4.0,) * ndim, (300.0,) * ndim)
    images = [box(grid, torch.eye(ndim).double(), (30.0,) * ndim, grid.center) for grid in (whole, part)]
    poses = shifted_poses(*images[::-1] if is_fixed else images)
    low = whole.index_to_world(torch.zeros(ndim).double()) - part.index_to_world(torch.zeros(ndim).double())
    slack = 4.0 * (torch.tensor(whole.shape) - torch.tensor(part.shape))
    places = low + torch.rand(100, ndim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * slack
    shifts = poses[:, :ndim, ndim] * (1 if not is_fixed else -1)
    misses = (-shifts - places[:, None]).abs().amin(dim=1)  # a third of the part apart: at most a sixth away
    assert (misses <= 4.0 * torch.tensor(sizes) / 6 + 1e-9).all()


def test_no_shifts_of_fields_of_view_that_are_alike() -> None:
    grids = (make_grid((40, 40, size), np.eye(3), (2.0,) * 3, (0.0,) * 3) for size in (40, 58))
    images = [box(grid, torch.eye(3).double(), (20.0,) * 3, grid.center) for grid in grids]
    assert shifted_poses(*images).shape == (0, 4, 4)


def test_few_shifts_of_a_crop_in_a_body() -> None:
    grids = (make_grid((size,) * 3, np.eye(3), (5.0,) * 3, (0.0,) * 3) for size in (100, 8))
    images = [box(grid, torch.eye(3).double(), (15.0,) * 3, grid.center) for grid in grids]
    assert len(shifted_poses(*images)) < 3_000


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
