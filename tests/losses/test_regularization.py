# SPDX-License-Identifier: Apache-2.0
"""The regularizers against closed forms, NumPy, SciPy and finite differences."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from regplugins.losses import MagnitudeLoss, SquaredGradientLoss, SquaredLaplacianLoss, TotalVariationLoss

LOSSES = [TotalVariationLoss, SquaredGradientLoss, SquaredLaplacianLoss, MagnitudeLoss]
# Grids over the same 12 x 24 x 6 mm between the centers of their outermost voxels.
EXTENT = (12.0, 24.0, 6.0)
GRIDS = [(13, 25, 7), (9, 31, 13), (5, 7, 4), (25, 9, 5)]
SLOPE = torch.tensor([[0.1, -0.2, 0.3], [0.0, 0.25, -0.15], [-0.05, 0.4, 0.2]], dtype=torch.float64)


def spacing_of(shape: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(extent / (size - 1) for extent, size in zip(EXTENT, shape, strict=False))


def sample(polynomial: Tensor, power: int, shape: tuple[int, ...]) -> Tensor:
    """Return the DDF in voxels, float64, of the displacement in mm `u_k = sum_j polynomial[k, j] * x_j ** power`."""
    spacing = spacing_of(shape)
    axes = [torch.arange(size, dtype=torch.float64) * step for size, step in zip(shape, spacing, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    ndim = len(shape)
    field = torch.einsum("kj,j...->k...", polynomial[:ndim, :ndim], points**power)
    return (field / torch.tensor(spacing, dtype=torch.float64).reshape(-1, *(1,) * ndim))[None]


@pytest.mark.parametrize("shape", [*GRIDS, (13, 25), (7, 9)])
def test_affine_field(shape: tuple[int, ...]) -> None:
    slope = SLOPE[: len(shape), : len(shape)]
    ddf, spacing = sample(slope, 1, shape) + 3, spacing_of(shape)
    assert TotalVariationLoss(spacing)(ddf).item() == pytest.approx(slope.abs().sum().item(), rel=1e-10)
    assert SquaredGradientLoss(spacing)(ddf).item() == pytest.approx(slope.square().sum().item(), rel=1e-10)
    assert SquaredLaplacianLoss(spacing)(ddf).item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("shape", GRIDS)
def test_quadratic_field(shape: tuple[int, ...]) -> None:
    curvature = SLOPE / 10
    ddf, spacing = sample(curvature, 2, shape), spacing_of(shape)
    # u'' = 2 c of each term; with u' = 2 c x >= 0 times the sign of c, the mean of |u'| over [0, E] is |c| E.
    laplacian = (2 * curvature).sum(1).square().sum()
    variation = (curvature.abs() * torch.tensor(EXTENT)).sum()
    assert SquaredLaplacianLoss(spacing)(ddf).item() == pytest.approx(laplacian.item(), rel=1e-9)
    assert TotalVariationLoss(spacing)(ddf).item() == pytest.approx(variation.item(), rel=1e-10)
    # Forward differences are u' half way between voxels: sampled at midpoints, x² has the mean E²/3 - s²/12.
    means = torch.tensor([extent**2 / 3 - step**2 / 12 for extent, step in zip(EXTENT, spacing, strict=True)])
    gradient = (4 * curvature.square() * means).sum()
    assert SquaredGradientLoss(spacing)(ddf).item() == pytest.approx(gradient.item(), rel=1e-6)


@pytest.mark.parametrize("shape", GRIDS)
def test_translation(shape: tuple[int, ...]) -> None:
    millimeters, spacing = torch.tensor([1.5, -2.0, 4.0]), spacing_of(shape)
    ddf = (millimeters / torch.tensor(spacing)).reshape(1, 3, 1, 1, 1).expand(2, 3, *shape)
    assert MagnitudeLoss(spacing)(ddf).item() == pytest.approx(1.5**2 + 2.0**2 + 4.0**2, rel=1e-6)
    for loss in LOSSES[:3]:
        assert loss(spacing)(ddf).item() == pytest.approx(0, abs=1e-10)


def test_random_field_against_numpy_and_scipy() -> None:
    ddf = torch.randn(2, 3, 6, 7, 5, dtype=torch.float64)
    field = ddf.numpy()
    differences = [np.diff(field, axis=axis) for axis in (2, 3, 4)]
    variation = sum(np.abs(difference).sum(1).mean() for difference in differences)
    gradient = sum(np.square(difference).sum(1).mean() for difference in differences)
    components = [[ndimage.laplace(component)[1:-1, 1:-1, 1:-1] for component in sample] for sample in field]
    laplacian = np.square(components).sum(1).mean()
    assert TotalVariationLoss()(ddf).item() == pytest.approx(variation)
    assert SquaredGradientLoss()(ddf).item() == pytest.approx(gradient)
    assert SquaredLaplacianLoss()(ddf).item() == pytest.approx(laplacian)
    assert MagnitudeLoss()(ddf).item() == pytest.approx(np.square(field).sum(1).mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_no_spacing_is_that_of_one(loss: type[TotalVariationLoss]) -> None:
    ddf = torch.randn(2, 2, 6, 7)
    torch.testing.assert_close(loss()(ddf), loss((1, 1))(ddf))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("spacing", [None, (0.5, 2.0, 1.25)])
def test_gradient_is_that_of_finite_differences(
    loss: type[TotalVariationLoss], spacing: tuple[float, ...] | None
) -> None:
    ddf = torch.randn(2, 3, 4, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss(spacing), ddf)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_axis_of_one_voxel_adds_nothing(loss: type[TotalVariationLoss]) -> None:
    flat = torch.randn(2, 2, 6, 7)
    ddf = torch.cat([flat, torch.zeros(2, 1, 6, 7)], 1)
    expected = loss((1.5, 0.5))(flat)
    torch.testing.assert_close(loss((1.5, 0.5, 9.0))(ddf[..., None]), expected)
    torch.testing.assert_close(loss((9.0, 1.5, 0.5))(ddf[:, [2, 0, 1], None]), expected)


def test_one_voxel_is_smooth() -> None:
    for loss in LOSSES[:3]:
        assert loss()(torch.randn(1, 3, 1, 1, 1)) == 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_computes_in_float32_under_autocast(loss: type[TotalVariationLoss], dtype: torch.dtype) -> None:
    ddf = torch.randn(1, 3, 6, 6, 6).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss((0.7, 1.1, 1.3))(ddf)
    value.backward()
    assert value.dtype == torch.float32
    assert ddf.grad is not None and ddf.grad.dtype == dtype
    assert value.item() == pytest.approx(loss((0.7, 1.1, 1.3))(ddf.detach().double()).item(), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_unfit_fields_are_refused(loss: type[TotalVariationLoss]) -> None:
    with pytest.raises(ValueError, match=r"got the shape \(1, 2, 4, 4, 4\)"):
        loss()(torch.zeros(1, 2, 4, 4, 4))
    with pytest.raises(ValueError, match=r"got the shape \(3, 4, 4\)"):
        loss()(torch.zeros(3, 4, 4))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        loss()(torch.zeros(1, 2, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"3 axes, \(1\.0, 1\.0, 2\.0\), for a ddf of 2 axes"):
        loss((1, 1, 2))(torch.zeros(1, 2, 4, 4))
    for spacing in ((1.0, 0.0), (1.0, -2.0), (1.0, float("nan")), (1.0, float("inf"))):
        with pytest.raises(ValueError, match=r"spacing must be positive and finite along each axis, got \(1\.0"):
            loss(spacing)
