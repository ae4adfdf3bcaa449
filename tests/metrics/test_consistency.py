# SPDX-License-Identifier: Apache-2.0
"""Inverse consistency of transforms whose error is known."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from regplugins.metrics import inverse_consistency_error, sample_points
from regplugins.spatial import AffineTransform, Grid
from tests.itk_truth import translation


@pytest.fixture
def grid() -> Grid:
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.from_numpy(Rotation.from_euler("xyz", [20, -35, 10], degrees=True).as_matrix())
    affine[:3, :3] *= torch.tensor([1.0, 2.0, 0.5])
    affine[:3, 3] = torch.tensor([10.0, -20.0, 30.0])
    return Grid((20, 12, 30), affine)


def test_exact_inverse_comes_home(grid: Grid) -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] += 0.05 * torch.randn(3, 4, dtype=torch.float64)
    forward = AffineTransform(matrix)
    error = inverse_consistency_error(forward, ~forward, sample_points(grid), grid)
    assert len(error) > 1000
    assert error.max() < 1e-9


def test_missing_inverse_errs_by_the_whole_way(grid: Grid) -> None:
    identity = AffineTransform.identity(3)
    error = inverse_consistency_error(translation(0.6, 0.0, 0.8), identity, sample_points(grid), grid)
    torch.testing.assert_close(error, torch.ones_like(error))


def test_only_points_whose_image_is_inside_count() -> None:
    grid = Grid((10, 8), torch.eye(3))
    points = sample_points(grid, 500)
    forward = translation(4.0, 0.0)
    inside = points[:, 0].numpy() + 4 < 9.5
    assert 0 < inside.sum() < 500
    error = inverse_consistency_error(forward, lambda p: p - torch.tensor([4.0, 0.0]) + p[:, :1] * 0.01, points, grid)
    np.testing.assert_allclose(error.numpy(), (points[inside, 0].numpy() + 4) * 0.01 * np.sqrt(2), rtol=1e-9)


def test_sampled_points_fill_the_grid_and_repeat(grid: Grid) -> None:
    points = sample_points(grid, 5000, seed=3)
    index = np.linalg.solve(grid.affine.numpy(), np.c_[points.numpy(), np.ones(5000)].T)[:3].T
    top = np.array(grid.shape) - 1
    assert (index >= -1e-9).all() and (index <= top + 1e-9).all()
    np.testing.assert_allclose(index.mean(axis=0), top / 2, rtol=0.05)
    np.testing.assert_allclose(index.std(axis=0), top / np.sqrt(12), rtol=0.05)
    assert torch.equal(points, sample_points(grid, 5000, seed=3))
    assert not torch.equal(points, sample_points(grid, 5000, seed=4))
