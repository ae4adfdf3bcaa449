# SPDX-License-Identifier: Apache-2.0
"""Normalized cross-correlation of two images, over the whole image and over a window around each voxel."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from regplugins.checks import choice
from regplugins.losses._ncc_fused import LocalNCC
from regplugins.losses._similarity import ROUNDING_ERRORS, SimilarityLoss, normalized
from regplugins.spatial.filters import filter_matrix


class NCCLoss(SimilarityLoss):
    """Minus the normalized cross-correlation (Pearson's coefficient) of two whole images, in [-1, 1].

    The similarity S in Eq. 1 of Li and Fan, *Non-rigid image registration using self-supervised fully convolutional
    networks without training data*, ISBI 2018. It is averaged over samples and channels. A constant image counts as 0,
    with no gradient.
    """

    def _loss(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        weight = None if mask is None else normalized(mask.flatten(2), dim=2)
        pred, pred_variance, pred_constant = _centered(pred.flatten(2), weight)
        target, target_variance, target_constant = _centered(target.flatten(2), weight)
        covariance = _average(pred * target, weight)
        constant = pred_constant | target_constant
        # 1 in place of a variance of 0: `where` alone would pass on the infinite derivative of rsqrt as NaN.
        scale = torch.where(constant, 1, pred_variance).rsqrt() * torch.where(constant, 1, target_variance).rsqrt()
        return -torch.where(constant, 0, covariance * scale).mean()


def _average(values: Tensor, weight: Tensor | None) -> Tensor:
    return values.mean(2, keepdim=True) if weight is None else (values * weight).sum(2, keepdim=True)


def _centered(image: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return an image (B, C, voxels) less its mean, its variance (B, C, 1), and whether it is constant."""
    mean = _average(image, weight)
    centered = image - mean
    variance = _average(centered.square(), weight)
    rounding = ROUNDING_ERRORS * torch.finfo(image.dtype).eps * mean.detach()
    return centered, variance, variance.detach() <= rounding.square()


class LocalNCCLoss(SimilarityLoss):
    """Minus the squared normalized cross-correlation within a window around each voxel, averaged over the voxels.

    Value and gradients equal those of MONAI's ``LocalNormalizedCrossCorrelationLoss`` (zero padding, lower limit of the
    variances) at a fraction of the time and memory. It has no second derivative. Unlike in MONAI's, a window over which
    an image is constant but for rounding errors contributes 0, with no gradient. A mask weights windows.

    Args:
        kernel_size: side of the window in voxels, odd.
        kernel: ``"box"``, or ``"gaussian"`` with a standard deviation of a third of the side (MONAI's
            ``"rectangular"`` and ``"gaussian"``).
        smooth_dr: lower limit of either variance, as a sum over the window.

    Raises:
        ValueError: if the side is not odd and positive, or the kernel is unknown.
    """

    def __init__(
        self, kernel_size: int = 9, kernel: Literal["box", "gaussian"] = "box", smooth_dr: float = 1e-5
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        choice("kernel", kernel, dict.fromkeys(("box", "gaussian")))
        self.kernel_size = kernel_size
        self.kernel = kernel
        self.smooth_dr = smooth_dr

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, kernel={self.kernel!r}, smooth_dr={self.smooth_dr}"

    def _loss(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        weight = None if mask is None else normalized(mask) / pred.shape[1]
        if not torch.is_grad_enabled():
            pred, target = pred.detach(), target.detach()
        radius = self.kernel_size // 2
        weights = [self._weight(offset) for offset in range(-radius, radius + 1)]
        window_sum = sum(weights)
        bands = [filter_matrix(weights, size, pred) / window_sum for size in pred.shape[2:]]
        loss: Tensor = LocalNCC.apply(pred, target, weight, bands, self.smooth_dr / window_sum ** len(bands))
        return loss

    def _weight(self, offset: int) -> float:
        return 1.0 if self.kernel == "box" else math.exp(-0.5 * (3 * offset / self.kernel_size) ** 2)
