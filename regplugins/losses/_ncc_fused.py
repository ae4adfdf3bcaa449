# SPDX-License-Identifier: Apache-2.0
"""Local normalized cross-correlation with its gradients written out.

Between forward and backward only the gradient is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from regplugins.losses._similarity import ROUNDING_ERRORS
from regplugins.spatial.filters import multiply_axes


class LocalNCC(torch.autograd.Function):
    """The loss and its gradients, both computed in ``forward``.

    With E the average over the window (self-adjoint: symmetric, zero beyond the border), p and t the images, w the
    weight of a voxel, and

        A = E[pt] - E[p]E[t],   P = max(E[pp] - E[p]², limit),   T = max(E[tt] - E[t]², limit),

    the loss is -sum(w A² / (P T)). With a = 2 w A / (P T), and c = w A² / (P² T) where P is above its limit, else 0,

        d loss / dp = -(t E[a] - 2 p E[c] + E[2 c E[p] - a E[t]]),

    and likewise for t.
    """

    @staticmethod
    def forward(
        ctx: Any, pred: Tensor, target: Tensor, weight: Tensor | None, bands: Sequence[Tensor], limit: float
    ) -> Tensor:
        pred_mean, target_mean = multiply_axes(pred, bands), multiply_axes(target, bands)
        pred_variance, pred_flat = _variance(multiply_axes(pred.square(), bands), pred_mean, limit)
        target_variance, target_flat = _variance(multiply_axes(target.square(), bands), target_mean, limit)
        covariance = multiply_axes(pred * target, bands).addcmul_(pred_mean, target_mean, value=-1)
        covariance.masked_fill_(pred_flat.logical_or_(target_flat), 0)

        slope = (covariance / pred_variance).div_(target_variance)
        correlation = covariance.mul_(slope)
        if weight is None:
            scale = 1 / correlation.numel()
            loss = -correlation.mean()
            correlation.mul_(scale)
            slope.mul_(2 * scale)
        else:
            correlation.mul_(weight)
            loss = -correlation.sum()
            slope.mul_(weight).mul_(2)

        def gradient(image: Tensor, mean: Tensor, variance: Tensor, other: Tensor, other_mean: Tensor) -> Tensor:
            curvature = (correlation / variance).masked_fill_(variance <= limit, 0)
            result = multiply_axes((slope * other_mean).addcmul_(curvature, mean, value=-2), bands)
            result.addcmul_(multiply_axes(curvature, bands), image, value=2)
            return result.addcmul_(multiply_axes(slope, bands), other, value=-1)

        ctx.save_for_backward(
            gradient(pred, pred_mean, pred_variance, target, target_mean) if ctx.needs_input_grad[0] else None,
            gradient(target, target_mean, target_variance, pred, pred_mean) if ctx.needs_input_grad[1] else None,
        )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        pred, target = (None if gradient is None else gradient * grad_output for gradient in ctx.saved_tensors)
        return pred, target, None, None, None


def _variance(square: Tensor, mean: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Turn the windowed mean square, in place, into the variance; also return where that is below rounding errors."""
    rounding = square * (ROUNDING_ERRORS * torch.finfo(square.dtype).eps)
    variance = square.addcmul_(mean, mean, value=-1)
    flat = variance <= rounding
    return variance.clamp_min_(limit), flat
