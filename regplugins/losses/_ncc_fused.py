# SPDX-License-Identifier: Apache-2.0
"""Local normalized cross-correlation with its gradients written out.

Windowed averages are products with banded matrices along one axis after the other. Between forward and backward only
the gradient is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from regplugins.losses._similarity import ROUNDING_ERRORS

# Pixels of a long axis that one product covers. More cost more multiplications, fewer more overlap.
TILE = 32


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
        pred_mean, target_mean = _window_average(pred, bands), _window_average(target, bands)
        pred_variance, pred_flat = _variance(_window_average(pred.square(), bands), pred_mean, limit)
        target_variance, target_flat = _variance(_window_average(target.square(), bands), target_mean, limit)
        covariance = _window_average(pred * target, bands).addcmul_(pred_mean, target_mean, value=-1)
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
            result = _window_average((slope * other_mean).addcmul_(curvature, mean, value=-2), bands)
            result.addcmul_(_window_average(curvature, bands), image, value=2)
            return result.addcmul_(_window_average(slope, bands), other, value=-1)

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


def _window_average(image: Tensor, bands: Sequence[Tensor]) -> Tensor:
    """Average an image (B, C, *spatial) over windows, zero beyond its border, by a product with a band along each axis.

    For axes of up to some hundred voxels this is many times faster than running sums, and free of their cancellation.
    A band with fewer rows than its axis has pixels is applied to overlapping parts of the axis.
    """
    shape, dtype = image.shape, image.dtype
    if _products_are_rounded(image.device):
        image, bands = image.double(), [band.double() for band in bands]
    for axis, band in enumerate(bands, start=2):
        rows, size = len(band), shape[axis]
        lines = image.reshape(shape[:axis].numel(), size, -1)
        if rows < size:
            count, reach = math.ceil(size / rows), (band.shape[1] - rows) // 2
            lines = F.pad(lines, (0, 0, reach, count * rows - size + reach)).unfold(1, band.shape[1], rows)
            lines = lines @ band.T if lines.shape[2] == 1 else band @ lines.transpose(2, 3)
            image = lines.reshape(len(lines), count * rows, -1)[:, :size]
        else:
            image = band @ lines if lines.shape[2] > 1 else lines[..., 0] @ band.T
    return image.reshape(shape).to(dtype)


def _products_are_rounded(device: torch.device) -> bool:
    """Tell whether float32 matrix products use TF32 or bfloat16, too coarse for a difference of squares."""
    if not hasattr(torch.backends, "fp32_precision"):  # before PyTorch 2.9
        return torch.get_float32_matmul_precision() != "highest"
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision not in ("none", "ieee")


def _variance(square: Tensor, mean: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Turn the windowed mean square, in place, into the variance; also return where that is below rounding errors."""
    rounding = square * (ROUNDING_ERRORS * torch.finfo(square.dtype).eps)
    variance = square.addcmul_(mean, mean, value=-1)
    flat = variance <= rounding
    return variance.clamp_min_(limit), flat
