# SPDX-License-Identifier: Apache-2.0
"""The regularizers against closed forms, NumPy, SciPy and finite differences."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from regplugins.losses import MagnitudeLoss, SquaredGradientLoss, SquaredLaplacianLoss, TotalVariationLoss

LOSSES = [TotalVariationLoss, SquaredGradientLoss, SquaredLaplacianLoss, MagnitudeLoss]
GRIDS = [(13, 25, 7), (5, 7, 4), (25, 9, 5)]
SLOPE = torch.tensor([[0.1, -0.2, 0.3], [0.0, 0.25, -0.15], [-0.05, 0.4, 0.2]], dtype=torch.float64)


def sample(polynomial: Tensor, power: int, shape: tuple[int, ...]) -> Tensor:
    """Return the DDF `u_k = sum_j polynomial[k, j] * x_j ** power` in voxels, float64."""
    axes = [torch.arange(size, dtype=torch.float64) for size in shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    n = len(shape)
    return torch.einsum("kj,j...->k...", polynomial[:n, :n], points**power)[None]


@pytest.mark.parametrize("shape", [*GRIDS, (13, 25), (7, 9)])
def test_affine_field(shape: tuple[int, ...]) -> None:
    slope = SLOPE[: len(shape), : len(shape)]
    ddf = sample(slope, 1, shape) + 3
    assert TotalVariationLoss()(ddf).item() == pytest.approx(slope.abs().sum().item(), rel=1e-10)
    assert SquaredGradientLoss()(ddf).item() == pytest.approx(slope.square().sum().item(), rel=1e-10)
    assert SquaredLaplacianLoss()(ddf).item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("shape", GRIDS)
def test_quadratic_field(shape: tuple[int, ...]) -> None:
    curvature = SLOPE / 10
    ddf, extent = sample(curvature, 2, shape), torch.tensor(shape, dtype=torch.float64) - 1
    # u'' = 2 c of each term; with u' = 2 c x >= 0 times the sign of c, the mean of |u'| over [0, E] is |c| E.
    laplacian = (2 * curvature).sum(1).square().sum()
    variation = (curvature.abs() * extent).sum()
    assert SquaredLaplacianLoss()(ddf).item() == pytest.approx(laplacian.item(), rel=1e-9)
    assert TotalVariationLoss()(ddf).item() == pytest.approx(variation.item(), rel=1e-10)
    # Forward differences are u' half way between voxels: sampled at midpoints, x² has the mean E²/3 - 1/12.
    gradient = (4 * curvature.square() * (extent.square() / 3 - 1 / 12)).sum()
    assert SquaredGradientLoss()(ddf).item() == pytest.approx(gradient.item(), rel=1e-6)


@pytest.mark.parametrize("shape", GRIDS)
def test_translation(shape: tuple[int, ...]) -> None:
    ddf = torch.tensor([1.5, -2.0, 4.0]).reshape(1, 3, 1, 1, 1).expand(2, 3, *shape)
    assert MagnitudeLoss()(ddf).item() == pytest.approx(1.5**2 + 2.0**2 + 4.0**2, rel=1e-6)
    for loss in LOSSES[:3]:
        assert loss()(ddf).item() == pytest.approx(0, abs=1e-10)


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
def test_gradient_is_that_of_finite_differences(loss: type[TotalVariationLoss]) -> None:
    ddf = torch.randn(2, 3, 4, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss(), ddf)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_axis_of_one_voxel_adds_nothing(loss: type[TotalVariationLoss]) -> None:
    flat = torch.randn(2, 2, 6, 7)
    ddf = torch.cat([flat, torch.zeros(2, 1, 6, 7)], 1)
    expected = loss()(flat)
    torch.testing.assert_close(loss()(ddf[..., None]), expected)
    torch.testing.assert_close(loss()(ddf[:, [2, 0, 1], None]), expected)


def test_one_voxel_is_smooth() -> None:
    for loss in LOSSES[:3]:
        assert loss()(torch.randn(1, 3, 1, 1, 1)) == 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_computes_in_float32_under_autocast(loss: type[TotalVariationLoss], dtype: torch.dtype) -> None:
    ddf = torch.randn(1, 3, 6, 6, 6).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss()(ddf)
    value.backward()
    assert value.dtype == torch.float32
    assert ddf.grad is not None and ddf.grad.dtype == dtype
    assert value.item() == pytest.approx(loss()(ddf.detach().double()).item(), rel=1e-5)


def test_unfit_fields_are_refused() -> None:
    loss = MagnitudeLoss
    with pytest.raises(ValueError, match=r"got the shape \(1, 2, 4, 4, 4\)"):
        loss()(torch.zeros(1, 2, 4, 4, 4))
    with pytest.raises(ValueError, match=r"got the shape \(3, 4, 4\)"):
        loss()(torch.zeros(3, 4, 4))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        loss()(torch.zeros(1, 2, 4, 4, dtype=torch.int64))
