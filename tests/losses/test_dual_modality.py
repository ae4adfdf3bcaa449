# SPDX-License-Identifier: Apache-2.0
"""Objective of the network supervised in both modalities in closed cases."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regplugins.losses import DualModalityLoss, MagnitudeLoss, NCCLoss, SquaredLaplacianLoss
from regplugins.spatial import warp


class Distance(nn.Module):
    """Mean squared difference that records the shapes of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, warped: Tensor, fixed: Tensor) -> Tensor:
        self.shapes.append(tuple(warped.shape[2:]))
        return F.mse_loss(warped, fixed)


def a_target(*shape: int) -> dict[str, Tensor]:
    return {key: torch.rand(2, 1, *shape) for key in ("moving", "fixed", "moving_paired", "fixed_paired")}


def padded(ddf: Tensor, margin: int) -> Tensor:
    return F.pad(ddf, [margin] * 2 * (ddf.dim() - 2))


@pytest.mark.parametrize("shape", [(14, 16), (10, 12, 9)])
def test_each_modality_is_compared_with_its_own(shape):
    """Constant images: the paired image of either side has the other side's modality."""
    torch.manual_seed(0)
    target, still = a_target(*shape), torch.zeros(2, len(shape), *shape)
    first = F.mse_loss(target["moving_paired"], target["fixed"])
    second = F.mse_loss(target["moving"], target["fixed_paired"])
    expected = {"dual": (first + second) / 2, "fixed": first, "moving": second}
    for supervision, value in expected.items():
        torch.testing.assert_close(DualModalityLoss(Distance(), supervision)(still, target), value)


def test_weights_are_by_default_those_of_the_paper():
    target, ddf = a_target(8, 9), torch.randn(2, 2, 8, 9)
    similarity = (
        NCCLoss()(warp(target["moving_paired"], ddf), target["fixed"])
        + NCCLoss()(warp(target["moving"], ddf), target["fixed_paired"])
    ) / 2
    expected = similarity + 0.5 * SquaredLaplacianLoss()(ddf) + 0.01 * MagnitudeLoss()(ddf)
    torch.testing.assert_close(DualModalityLoss(NCCLoss())(ddf, target), expected)


def test_norms_that_are_not_squared():
    """A constant field of length 3, whose square is 9, and a field of constant curvature: 2 x 4 along the axis."""
    target = {key: torch.zeros(1, 1, 8, 9) for key in a_target(1)}
    shift = torch.tensor([1.0, 8**0.5]).view(1, 2, 1, 1).expand(1, 2, 8, 9)
    bend = torch.zeros(1, 2, 8, 9)
    bend[:, 0] = (2 * torch.arange(8.0) ** 2)[:, None]
    for penalty_norm, length, bending in (("squared", 9.0, 16.0), ("root", 3.0, 4.0)):
        loss = DualModalityLoss(Distance(), laplacian_weight=1.0, magnitude_weight=0.5, penalty_norm=penalty_norm)
        torch.testing.assert_close(loss(shift, target), torch.tensor(0.5 * length))
        loss = DualModalityLoss(Distance(), laplacian_weight=1.0, magnitude_weight=0.0, penalty_norm=penalty_norm)
        torch.testing.assert_close(loss(bend, target), torch.tensor(bending))


def test_roots_are_of_each_patch():
    """Shifts of 1 and 3 voxels: the mean of the roots, not the root of the mean square."""
    shifts = torch.zeros(2, 2, 8, 9)
    shifts[:, 0] = torch.tensor([1.0, 3.0]).view(2, 1, 1)
    target = {key: torch.zeros(2, 1, 8, 9) for key in a_target(1)}
    for penalty_norm, expected in (("root", (1 + 3) / 2), ("squared", (1 + 9) / 2)):
        loss = DualModalityLoss(Distance(), laplacian_weight=0.0, magnitude_weight=1.0, penalty_norm=penalty_norm)
        torch.testing.assert_close(loss(shifts, target), torch.tensor(expected))


def test_the_root_of_nothing_has_a_derivative():
    still = torch.zeros(2, 2, 8, 9, requires_grad=True)
    DualModalityLoss(Distance(), penalty_norm="root")(still, a_target(8, 9)).backward()
    assert still.grad is not None and still.grad.isfinite().all()


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_field_is_padded_with_zeros_and_moves_the_whole_patch(spatial_dims):
    target = a_target(*[18] * spatial_dims)
    ddf = torch.randn(2, spatial_dims, *[10] * spatial_dims)
    distance = Distance()
    value = DualModalityLoss(distance, "moving", laplacian_weight=0, magnitude_weight=0)(ddf, target)
    assert distance.shapes == [(18,) * spatial_dims]
    moved = warp(target["moving"], padded(ddf, 4))
    torch.testing.assert_close(value, F.mse_loss(moved, target["fixed_paired"]))


def test_or_only_where_there_is_a_field():
    target, ddf = a_target(18, 16), 3 * torch.randn(2, 2, 10, 8)
    distance = Distance()
    loss = DualModalityLoss(distance, "fixed", laplacian_weight=0, magnitude_weight=0, similarity_region="field")
    value = loss(ddf, target)
    assert distance.shapes == [(10, 8)]
    inner = (..., slice(4, -4), slice(4, -4))
    # the patch beyond is seen where the field points there
    moved = warp(target["moving_paired"], padded(ddf, 4))[inner]
    torch.testing.assert_close(value, F.mse_loss(moved, target["fixed"][inner]))
    assert not torch.allclose(moved, warp(target["moving_paired"][inner], ddf))


def test_gradient():
    torch.manual_seed(0)
    target = {key: value.double() for key, value in a_target(12, 11).items()}
    ddf = torch.randn(2, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda field: DualModalityLoss(NCCLoss())(field, target), ddf, atol=1e-5)
