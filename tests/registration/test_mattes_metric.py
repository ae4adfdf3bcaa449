# SPDX-License-Identifier: Apache-2.0
"""Mutual information against a histogram, its gradient against differences, its overlap against the grids."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from regplugins.registration import Volume
from regplugins.registration.mattes_metric import MutualInformation
from regplugins.spatial import AffineTransform, Grid
from tests.itk_truth import GRIDS, make_grid, random_affine, rotation, translation
from tests.registration.heads import Contrast, ct, head, motion, mr

FIXED = make_grid((40, 46, 38), np.eye(3), (4.0, 4.0, 4.2), (4.0, -8.0, 11.0))
MOVING = make_grid((44, 40, 42), rotation(3, -25) @ np.diag([1.0, 1, -1]), (4.1, 4.4, 4.0), (16.0, -20.0, 20.0))


def volume(contrast: Contrast, grid: Grid, moved: Tensor | None = None) -> Volume:
    return Volume.prepare("image", head(contrast, grid, moved), grid)


def at(volume: Volume, points: Tensor) -> np.ndarray:
    """Linear interpolation at world points (number, n), by SciPy."""
    return map_coordinates(volume.values.numpy(), volume.grid.world_to_index(points).numpy().T, order=1, mode="nearest")


def mattes(fixed: np.ndarray, moving: np.ndarray, ranges: list[tuple[float, float]], bins: int) -> float:
    """The paper's equations: a box window on the fixed intensities, a cubic B-spline on the moving ones."""
    places = []
    for values, (low, high) in zip((fixed, moving), ranges, strict=True):
        places.append((values - low) / (high - low) * (bins - 4) + 2)
    row = np.floor(places[0]).clip(2, bins - 3).astype(int)
    joint = np.zeros((bins, bins))
    for column in range(bins):
        distance = np.abs(column - places[1])
        window = np.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, (2 - distance).clip(0) ** 3 / 6)
        np.add.at(joint[:, column], row, window)
    joint /= joint.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return float((joint[joint > 0] * np.log(joint[joint > 0] / independent[joint > 0])).sum())


def test_value_is_that_of_the_paper() -> None:
    transform = AffineTransform(motion(7.0, (5.0, -3.0, 6.0)))
    fixed, moving = volume(mr, FIXED), volume(ct, MOVING, transform.matrix)
    for matrix in (transform.matrix, torch.eye(4, dtype=torch.float64)):
        information = MutualInformation(fixed, moving, 5000, 24, 0)
        there = AffineTransform(matrix)(information.points)
        seen = MOVING.contains(there)
        ranges = [(float(v.values.min()), float(v.values.max())) for v in (fixed, moving)]
        expected = mattes(at(fixed, information.points[seen]), at(moving, there[seen]), ranges, 24)
        assert information.value(matrix)[0] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("n", [2, 3])
def test_gradient_is_the_change_of_the_value(n: int) -> None:
    def blob(size: int, directions: np.ndarray) -> Volume:
        grid = make_grid((size,) * n, directions, (1.0,) * n, (2.0,) * n)
        width = torch.tensor([5.0, 7.0, 6.0][:n])
        return Volume("image", torch.exp(-(grid.coordinates() / width).square().sum(dim=-1) / 2).float(), grid)

    # No point may leave the moving image: what that changes, no gradient tells.
    fixed, moving = blob(20, rotation(n, 8)), blob(40, rotation(n, -25) @ np.diag([1.0, -1, 1][:n]))
    information = MutualInformation(fixed, moving, 10**5, 24, 0)
    matrix = torch.eye(n + 1, dtype=torch.float64)
    matrix[:n, n] = torch.tensor([2.5, -1.5, 2.0][:n])
    gradient = information.gradient(matrix)[2]
    assert gradient[n].abs().max() == 0
    for row in range(n):
        for column in range(n + 1):
            change = torch.zeros_like(matrix)
            change[row, column] = 0.1 if column == n else 0.02
            slope = (information.value(matrix + change)[0] - information.value(matrix - change)[0]) / (
                2 * change.max().item()
            )
            # ITK differentiates a slightly smoother image than it interpolates.
            tolerance = 0.1 * gradient[:n, column].norm().item()
            assert gradient[row, column].item() == pytest.approx(slope, abs=tolerance)


@pytest.mark.parametrize(
    ("fixed", "moving"), [("oblique", "small"), ("left-handed oblique", "ras"), ("2-D", "2-D oblique")]
)
def test_overlap_counts_the_points_that_land_in_the_moving_image(fixed: str, moving: str) -> None:
    volumes = [Volume("image", torch.rand(GRIDS[name].shape), GRIDS[name]) for name in (fixed, moving)]
    information = MutualInformation(*volumes, 2000, 16, 3)
    transform = AffineTransform(random_affine(GRIDS[fixed].ndim))
    inside = GRIDS[moving].contains(transform(information.points))
    assert 0 < inside.sum() < 2000
    assert information.value(transform.matrix)[1] == inside.sum()


def test_points_are_spread_over_the_visible_voxels() -> None:
    grid = GRIDS["left-handed oblique"]
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[3:9, 4:8, 5:] = True
    fixed = Volume("fixed", torch.rand(grid.shape), grid, mask)
    points = MutualInformation(fixed, fixed, 10**6, 16, 0).points
    index = grid.world_to_index(points).round().long()
    assert sorted(index.tolist()) == mask.nonzero().tolist()


def test_seed_chooses_the_points() -> None:
    fixed = Volume("fixed", torch.rand(GRIDS["small"].shape), GRIDS["small"])
    one, same, other = (MutualInformation(fixed, fixed, 100, 16, seed).points for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_nothing_to_share() -> None:
    grid = GRIDS["ras"]
    noise, blank = Volume("fixed", torch.rand(grid.shape), grid), Volume("moving", torch.ones(grid.shape), grid)
    for moving, matrix in ((noise, translation(1000.0, 0.0, 0.0).matrix), (blank, torch.eye(4, dtype=torch.float64))):
        information = MutualInformation(noise, moving, 500, 16, 0)
        value, overlap, gradient = information.gradient(matrix)
        assert (value, overlap) == (0, 0) == information.value(matrix)
        assert gradient.abs().max() == 0
