# SPDX-License-Identifier: Apache-2.0
"""Folding and volume change against closed forms, NumPy and SimpleITK."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from regplugins.metrics import folding_percent, sd_log_jacobian, sd_log_jacobian_learn2reg
from regplugins.spatial import DisplacementField, Grid, identity_grid, jacobian_determinant


def linear_ddf(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """DDF (1, n, *shape) of x -> matrix @ x."""
    x = identity_grid(list(shape), dtype=torch.float64)
    return (torch.einsum("ij,j...->i...", matrix.double(), x) - x)[None]


@pytest.mark.parametrize("shape", [(6, 5), (5, 4, 6)])
def test_linear_map_folds_everywhere_or_nowhere(shape: tuple[int, ...]) -> None:
    matrix = torch.eye(len(shape)) + 0.2 * torch.randn(len(shape), len(shape))
    for sign in (1.0, -1.0):
        matrix[0] *= sign * torch.linalg.det(matrix).sign()
        determinant = jacobian_determinant(linear_ddf(matrix, shape))
        torch.testing.assert_close(
            determinant, torch.full((1, *shape), float(torch.linalg.det(matrix.double())), dtype=torch.float64)
        )
        assert folding_percent(determinant).tolist() == [0.0 if sign > 0 else 100.0]


def test_share_of_a_partial_fold() -> None:
    place = np.array([0.0, 1, 2, 5, 4, 3, 2.5, 6, 7, 8])  # runs backwards in between
    ddf = torch.zeros(1, 2, 10, 4)
    ddf[0, 0] = torch.from_numpy(place - np.arange(10)).float()[:, None]
    expected = 100 * np.mean(np.gradient(place) <= 0)
    assert 0 < expected < 100
    assert folding_percent(jacobian_determinant(ddf)).item() == pytest.approx(expected)


def test_collapse_and_nan_count_as_folded_and_samples_are_apart() -> None:
    determinant = torch.tensor([[1.0, 0.0, float("nan"), -2.0], [1.0, 2.0, 1e-6, 3.0]])
    assert folding_percent(determinant).tolist() == [75.0, 0.0]


def test_one_folded_voxel_of_a_large_volume_is_seen() -> None:
    determinant = torch.ones(1, 300, 300, 300, dtype=torch.float16)
    determinant[0, 7, 8, 9] = -1
    assert folding_percent(determinant).item() == pytest.approx(100 / 300**3, rel=1e-5)


def test_spread_is_numpys_over_what_does_not_fold() -> None:
    determinant = torch.randn(2, 5, 4, 3, dtype=torch.float64) + 1
    expected = [np.log(one[one > 0]).std() for one in determinant.numpy()]
    np.testing.assert_allclose(sd_log_jacobian(determinant).numpy(), expected)
    assert math.isnan(sd_log_jacobian(torch.tensor([[-3.0, 0.0]])).item())


def test_learn2reg_adds_three_and_leaves_the_border_out() -> None:
    """The definition with NumPy's gradient."""
    ddf = 3 * torch.randn(1, 3, 9, 8, 7, dtype=torch.float64)
    slopes = np.stack([np.stack(np.gradient(part)) for part in ddf[0].numpy()])  # (component, axis, *spatial)
    matrices = np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(3)
    inner = np.linalg.det(matrices)[2:-2, 2:-2, 2:-2]
    assert (inner < -3).any()
    expected = np.log(np.clip(inner + 3, 1e-9, 1e9)).std()
    assert sd_log_jacobian_learn2reg(jacobian_determinant(ddf)).item() == pytest.approx(expected)
    assert math.isnan(sd_log_jacobian_learn2reg(torch.ones(1, 9, 9, 4)).item())


def test_agrees_with_itk_in_millimeters() -> None:
    rng = np.random.default_rng(0)
    shape, spacing = (14, 12, 10), (1.0, 2.0, 1.5)
    vectors = np.stack([gaussian_filter(rng.standard_normal(shape), 1.5) for _ in range(3)]) * 16
    field = sitk.GetImageFromArray(np.moveaxis(vectors, 0, -1).transpose(2, 1, 0, 3).astype(np.float64), isVector=True)
    field.SetSpacing(spacing)
    theirs = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field, True)).transpose(2, 1, 0)
    grid = Grid(shape, torch.diag(torch.tensor([*spacing, 1.0])))
    ours = jacobian_determinant(DisplacementField(torch.from_numpy(vectors), grid).to_ddf()[None])
    inner = (slice(1, -1),) * 3  # ITK takes other differences at the border
    folded = 100 * np.mean(theirs[inner] <= 0)
    assert 1 < folded < 50
    np.testing.assert_allclose(ours[0][inner].numpy(), theirs[inner], atol=1e-4)
    assert folding_percent(ours[(slice(None), *inner)]).item() == pytest.approx(folded)
