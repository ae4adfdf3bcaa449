# SPDX-License-Identifier: Apache-2.0
"""Penalties on the roughness and the size of a dense displacement field (DDF)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _DisplacementLoss(nn.Module, ABC):
    """Penalty of a displacement field."""

    def forward(self, ddf: Tensor) -> Tensor:
        """Return the penalty, a scalar, in float32 whatever the autocast state (in float64 for a float64 DDF).

        The DDF is ``(B, n, *spatial)`` in voxels, 2-D or 3-D (else ``ValueError``), of a floating-point type (else
        ``TypeError``).
        """
        ndim = ddf.ndim - 2
        if ndim not in (2, 3) or ddf.shape[1] != ndim:
            raise ValueError(f"ddf must be (B, 2, H, W) or (B, 3, H, W, D), got the shape {tuple(ddf.shape)}")
        if not ddf.is_floating_point():
            raise TypeError(f"ddf must be a floating-point tensor, got {ddf.dtype}")
        with torch.autocast(ddf.device.type, enabled=False):
            return self._penalty(ddf if ddf.dtype == torch.float64 else ddf.float())

    @abstractmethod
    def _penalty(self, displacement: Tensor) -> Tensor:
        """Compute the penalty of a displacement."""


class TotalVariationLoss(_DisplacementLoss):
    """Anisotropic total variation: the absolute forward differences, dimensionless.

    Eq. 2 of Li and Fan, *Non-rigid image registration using self-supervised fully convolutional networks without
    training data*, ISBI 2018, as a mean over the voxels. For each axis, the absolute differences of neighbors are
    summed over the components and averaged over batch and neighbors; the averages are summed over the axes. An axis of
    one voxel adds nothing.
    """

    def _penalty(self, displacement: Tensor) -> Tensor:
        penalty = displacement.new_zeros(())
        for axis in range(2, displacement.ndim):
            if displacement.shape[axis] > 1:
                penalty = penalty + displacement.diff(dim=axis).abs().mean()
        return penalty * displacement.shape[1]


class SquaredGradientLoss(_DisplacementLoss):
    """Squared forward differences (diffusion regularization), dimensionless.

    For each axis, the squared differences of neighbors are summed over the components and averaged over batch and
    neighbors; the averages are summed over the axes. An axis of one voxel adds nothing. There is no second derivative.
    """

    def _penalty(self, displacement: Tensor) -> Tensor:
        penalty = displacement.new_zeros(())
        for axis in range(2, displacement.ndim):
            if displacement.shape[axis] > 1:
                penalty = penalty + _MeanSquare.apply(displacement, [({}, -1.0), ({axis: 1}, 1.0)])
        return penalty * displacement.shape[1]


class SquaredLaplacianLoss(_DisplacementLoss):
    """Squared Laplacian by second differences, in 1/voxel².

    The Laplacian of each component is taken one voxel off the border, where all its second differences exist. Its
    square is summed over the components and averaged over batch and voxels. An axis of fewer than three voxels adds
    nothing and is not cropped. There is no second derivative.
    """

    def _penalty(self, displacement: Tensor) -> Tensor:
        middle = {axis: 1 for axis in range(2, displacement.ndim) if displacement.shape[axis] > 2}
        stencil = [(middle, -2.0 * len(middle))]
        for axis in middle:
            stencil += [({**middle, axis: 0}, 1.0), ({**middle, axis: 2}, 1.0)]
        penalty: Tensor = _MeanSquare.apply(displacement, stencil) * displacement.shape[1]
        return penalty


class MagnitudeLoss(_DisplacementLoss):
    """Squared length of the displacement, averaged over batch and voxels, in voxel²."""

    def _penalty(self, displacement: Tensor) -> Tensor:
        return displacement.square().mean() * displacement.shape[1]


# Terms of a stencil: offsets along some axes, each at least 0, and weights.
_Stencil = Sequence[tuple[Mapping[int, int], float]]


class _MeanSquare(torch.autograd.Function):
    """``mean_x (Σ_k w_k u(x + o_k))²`` over all ``x`` for which every ``u(x + o_k)`` exists.

    Autograd would allocate a field for each of its terms.
    """

    @staticmethod
    def forward(ctx: Any, field: Tensor, stencil: _Stencil) -> Tensor:
        (offset, weight), *others = stencil
        total = weight * _window(field, offset, stencil)
        for offset, weight in others:
            total.add_(_window(field, offset, stencil), alpha=weight)
        ctx.stencil, ctx.shape = stencil, field.shape
        ctx.save_for_backward(total)
        return total.square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (total,) = ctx.saved_tensors
        total = total * (2 / total.numel() * gradient)
        result = total.new_zeros(ctx.shape)
        for offset, weight in ctx.stencil:
            _window(result, offset, ctx.stencil).add_(total, alpha=weight)
        return result, None


def _window(field: Tensor, offset: Mapping[int, int], stencil: _Stencil) -> Tensor:
    """Part of a field to which one of a stencil's terms applies."""
    for axis in {axis for other, _ in stencil for axis in other}:
        reach = max(other.get(axis, 0) for other, _ in stencil)
        field = field.narrow(axis, offset.get(axis, 0), field.shape[axis] - reach)
    return field
