# SPDX-License-Identifier: Apache-2.0
"""Penalties on the roughness and the size of a dense displacement field (DDF)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from regplugins.spatial import per_axis


class _DisplacementLoss(nn.Module, ABC):
    """Penalty of a displacement field.

    Args:
        spacing: voxel size in mm along each axis. With it displacements and derivatives are in mm, else in voxels.

    Raises:
        ValueError: if a spacing is not positive and finite.
    """

    def __init__(self, spacing: Sequence[float] | None = None) -> None:
        super().__init__()
        if spacing is not None and not all(0 < step < float("inf") for step in spacing):
            raise ValueError(f"spacing must be positive and finite along each axis, got {tuple(spacing)}")
        self.spacing = None if spacing is None else tuple(float(step) for step in spacing)

    def extra_repr(self) -> str:
        return "" if self.spacing is None else f"spacing={self.spacing}"

    def forward(self, ddf: Tensor) -> Tensor:
        """Return the penalty, a scalar, in float32 whatever the autocast state (in float64 for a float64 DDF).

        The DDF is ``(B, n, *spatial)`` in voxels, 2-D or 3-D (else ``ValueError``, as for a spacing of another
        dimension), of a floating-point type (else ``TypeError``).
        """
        ndim = ddf.ndim - 2
        if ndim not in (2, 3) or ddf.shape[1] != ndim:
            raise ValueError(f"ddf must be (B, 2, H, W) or (B, 3, H, W, D), got the shape {tuple(ddf.shape)}")
        if not ddf.is_floating_point():
            raise TypeError(f"ddf must be a floating-point tensor, got {ddf.dtype}")
        spacing = self.spacing or (1.0,) * ndim
        if len(spacing) != ndim:
            raise ValueError(f"a spacing of {len(spacing)} axes, {spacing}, for a ddf of {ndim} axes")
        with torch.autocast(ddf.device.type, enabled=False):
            if ddf.dtype != torch.float64:
                ddf = ddf.float()
            if self.spacing is not None:
                ddf = ddf * per_axis(spacing, ddf)
            return self._penalty(ddf, spacing)

    @abstractmethod
    def _penalty(self, displacement: Tensor, spacing: tuple[float, ...]) -> Tensor:
        """Compute the penalty of a displacement in the unit of the spacing."""


class TotalVariationLoss(_DisplacementLoss):
    """Anisotropic total variation: the absolute forward differences, dimensionless.

    Eq. 2 of Li and Fan, *Non-rigid image registration using self-supervised fully convolutional networks without
    training data*, ISBI 2018, as a mean over the voxels. For each axis, the absolute differences of neighbors are
    summed over the components and averaged over batch and neighbors; the averages are summed over the axes. An axis of
    one voxel adds nothing.
    """

    def _penalty(self, displacement: Tensor, spacing: tuple[float, ...]) -> Tensor:
        penalty = displacement.new_zeros(())
        for axis, step in enumerate(spacing):
            if displacement.shape[axis + 2] > 1:
                penalty = penalty + displacement.diff(dim=axis + 2).abs().mean() * (len(spacing) / step)
        return penalty


class SquaredGradientLoss(_DisplacementLoss):
    """Squared forward differences (diffusion regularization), dimensionless.

    For each axis, the squared differences of neighbors are summed over the components and averaged over batch and
    neighbors; the averages are summed over the axes. An axis of one voxel adds nothing. There is no second derivative.
    """

    def _penalty(self, displacement: Tensor, spacing: tuple[float, ...]) -> Tensor:
        penalty = displacement.new_zeros(())
        for axis, step in enumerate(spacing):
            if displacement.shape[axis + 2] > 1:
                penalty = penalty + _MeanSquare.apply(displacement, [({}, -1 / step), ({axis + 2: 1}, 1 / step)])
        return penalty * len(spacing)


class SquaredLaplacianLoss(_DisplacementLoss):
    """Squared Laplacian by second differences, in 1/mm² (1/voxel² without ``spacing``, the voxel size in mm).

    The Laplacian of each component is taken one voxel off the border, where all its second differences exist. Its
    square is summed over the components and averaged over batch and voxels. An axis of fewer than three voxels adds
    nothing and is not cropped. There is no second derivative.
    """

    def _penalty(self, displacement: Tensor, spacing: tuple[float, ...]) -> Tensor:
        weights = {axis + 2: step**-2 for axis, step in enumerate(spacing) if displacement.shape[axis + 2] > 2}
        middle = dict.fromkeys(weights, 1)
        stencil = [(middle, -2 * sum(weights.values()))]
        for axis, weight in weights.items():
            stencil += [({**middle, axis: 0}, weight), ({**middle, axis: 2}, weight)]
        penalty: Tensor = _MeanSquare.apply(displacement, stencil) * len(spacing)
        return penalty


class MagnitudeLoss(_DisplacementLoss):
    """Squared length of the displacement, averaged over batch and voxels, in mm² (voxel² without ``spacing``)."""

    def _penalty(self, displacement: Tensor, spacing: tuple[float, ...]) -> Tensor:
        return displacement.square().mean() * len(spacing)


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
