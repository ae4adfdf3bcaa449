# SPDX-License-Identifier: Apache-2.0
"""Normalized cross-correlation of two images, over the whole image and over a window around each voxel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from regplugins.losses._images import ROUNDING_ERRORS, check_images, computing_dtype, normalized

__all__ = ["LocalNCCLoss", "NCCLoss"]


class NCCLoss(nn.Module):
    """Minus the normalized cross-correlation (Pearson's coefficient) of two whole images.

    The similarity S in Eq. 1 of Li and Fan, *Non-rigid image registration using self-supervised fully convolutional
    networks without training data*, ISBI 2018. It is -1 for images that differ by a positive affine map of their
    intensities. Where an image is constant the coefficient is undefined; it then counts as 0, with no gradient.
    """

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the loss, in float32 whatever the autocast state (in float64 for float64 images).

        Args:
            pred: the warped image, (B, C, *spatial).
            target: the fixed image, of the same shape.
            mask: the weight of each voxel, (B, 1, *spatial), at least 0; ``None`` weights all alike.

        Returns:
            Minus the coefficient of each sample and channel, averaged over both: a scalar in [-1, 1].

        Raises:
            ValueError: if the shapes do not fit.
            TypeError: if an image is not of a floating-point type.
        """
        check_images(pred, target, mask)
        dtype = computing_dtype(pred, target)
        with torch.autocast(pred.device.type, enabled=False):
            pred, target = pred.to(dtype).flatten(2), target.to(dtype).flatten(2)
            weight = None if mask is None else normalized(mask.detach().to(dtype).flatten(2), dim=2)
            pred, pred_variance, pred_constant = _centered(pred, weight)
            target, target_variance, target_constant = _centered(target, weight)
            covariance = _average(pred * target, weight)
            constant = pred_constant | target_constant
            # 1 in place of a variance of 0: `where` alone would let the infinite derivative of rsqrt through as NaN.
            scale = torch.where(constant, 1, pred_variance).rsqrt() * torch.where(constant, 1, target_variance).rsqrt()
            return -torch.where(constant, 0, covariance * scale).mean()


def _average(values: Tensor, weight: Tensor | None) -> Tensor:
    return values.mean(2, keepdim=True) if weight is None else (values * weight).sum(2, keepdim=True)


def _centered(image: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return an image (B, C, voxels) less its mean, its variance (B, C, 1), and whether that is but rounding."""
    mean = _average(image, weight)
    centered = image - mean
    variance = _average(centered.square(), weight)
    rounding = ROUNDING_ERRORS * torch.finfo(image.dtype).eps * mean.detach()
    return centered, variance, variance.detach() <= rounding.square()


class LocalNCCLoss(nn.Module):
    """Minus the squared normalized cross-correlation within a window around each voxel, averaged over the voxels.

    The definition is that of MONAI's ``LocalNormalizedCrossCorrelationLoss`` (window, zero padding beyond the border,
    lower limit on the variances), and so are the value and the gradients, at a fraction of the time and memory:
    windowed averages are products with banded matrices along one axis after the other, and the gradient is written out
    rather than recorded by autograd, so that between forward and backward only the gradient itself is kept. It has no
    second derivative.

    It departs from MONAI's in one respect: a window over which an image varies by less than float32 can tell from its
    rounding errors contributes 0, with no gradient, rather than a correlation of rounding errors.

    Args:
        kernel_size: the side of the window in voxels, odd.
        kernel: ``"box"``, or ``"gaussian"`` with a standard deviation of a third of the side (MONAI's
            ``"rectangular"`` and ``"gaussian"``).
        smooth_dr: the lower limit on either variance, as a sum over the window.

    Raises:
        ValueError: if the side is not odd and positive, or the kernel is not one of the two.
    """

    def __init__(
        self, kernel_size: int = 9, kernel: Literal["box", "gaussian"] = "box", smooth_dr: float = 1e-5
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        if kernel not in ("box", "gaussian"):
            raise ValueError(f"kernel must be 'box' or 'gaussian', got {kernel!r}")
        self.kernel_size = kernel_size
        self.kernel = kernel
        self.smooth_dr = smooth_dr

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, kernel={self.kernel!r}, smooth_dr={self.smooth_dr}"

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the loss, in float32 whatever the autocast state (in float64 for float64 images).

        Args:
            pred: the warped image, (B, C, *spatial).
            target: the fixed image, of the same shape.
            mask: the weight of each window by its center, (B, 1, *spatial), at least 0; ``None`` weights all alike.
                It weights the map of correlations, not the voxels within a window.

        Returns:
            Minus the (weighted) mean of the squared correlations over batch, channels and voxels: a scalar in [-1, 0].

        Raises:
            ValueError: if the shapes do not fit.
            TypeError: if an image is not of a floating-point type.
        """
        check_images(pred, target, mask)
        dtype = computing_dtype(pred, target)
        with torch.autocast(pred.device.type, enabled=False):
            weight = None if mask is None else normalized(mask.detach().to(dtype)) / pred.shape[1]
            pred, target = pred.to(dtype), target.to(dtype)
            if not torch.is_grad_enabled():
                pred, target = pred.detach(), target.detach()
            window_sum = sum(self._weight(offset) for offset in range(-self._radius, self._radius + 1))
            bands = [self._band(size, pred) / window_sum for size in pred.shape[2:]]
            loss: Tensor = _LocalNCC.apply(pred, target, weight, bands, self.smooth_dr / window_sum ** len(bands))
            return loss

    @property
    def _radius(self) -> int:
        return self.kernel_size // 2

    def _weight(self, offset: int) -> float:
        return 1.0 if self.kernel == "box" else math.exp(-0.5 * (3 * offset / self.kernel_size) ** 2)

    def _band(self, size: int, like: Tensor) -> Tensor:
        """Return the matrix (size, size) that sums over the window along an axis of that many voxels."""
        band = like.new_zeros(size, size)
        for offset in range(-min(self._radius, size - 1), min(self._radius, size - 1) + 1):
            band.diagonal(offset).fill_(self._weight(offset))
        return band


class _LocalNCC(torch.autograd.Function):
    """The loss and, while its statistics are at hand, its gradients.

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

    More operations than running sums take, yet many times faster for axes of up to some hundred voxels, and free of the
    cancellation of cumulative sums.
    """
    shape, dtype = image.shape, image.dtype
    if _products_are_rounded(image.device):
        image, bands = image.double(), [band.double() for band in bands]
    image = image.reshape(-1, shape[-1]) @ bands[-1]
    for axis, band in enumerate(bands[:-1], start=2):
        image = band @ image.reshape(shape[:axis].numel(), shape[axis], -1)
    return image.reshape(shape).to(dtype)


def _products_are_rounded(device: torch.device) -> bool:
    """Tell whether matrix products of float32 are set to TF32 or bfloat16, too coarse for a difference of squares."""
    if not hasattr(torch.backends, "fp32_precision"):  # before PyTorch 2.9
        return torch.get_float32_matmul_precision() != "highest"
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision not in ("none", "ieee")


def _variance(square: Tensor, mean: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Turn the windowed mean square, in place, into the variance; also return where that is but rounding."""
    rounding = square * (ROUNDING_ERRORS * torch.finfo(square.dtype).eps)
    variance = square.addcmul_(mean, mean, value=-1)
    flat = variance <= rounding
    return variance.clamp_min_(limit), flat
