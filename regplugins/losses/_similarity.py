# SPDX-License-Identifier: Apache-2.0
"""Base class of similarity losses, and what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

# An image whose variance is below the square of this many rounding errors of its mean counts as constant: normalization
# would amplify the rounding errors.
ROUNDING_ERRORS = 16


class SimilarityLoss(nn.Module, ABC):
    """Similarity of a warped and a fixed image."""

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar, in float32 whatever the autocast state (in float64 for float64 images).

        Args:
            pred: the warped image, ``(B, C, *spatial)``.
            target: the fixed image, of the same shape.
            mask: weight of each voxel, ``(B, 1, *spatial)``, at least 0; default: equal weights.

        Raises:
            ValueError: if the shapes do not match.
            TypeError: if an image is not of a floating-point type.
        """
        check_rank(pred, "pred")
        if pred.shape != target.shape:
            raise ValueError(f"pred and target differ in shape: {tuple(pred.shape)} and {tuple(target.shape)}")
        if not (pred.is_floating_point() and target.is_floating_point()):
            raise TypeError(f"pred and target must be floating-point tensors, got {pred.dtype} and {target.dtype}")
        expected = (pred.shape[0], 1, *pred.shape[2:])
        if mask is not None and mask.shape != expected:
            raise ValueError(f"mask must be of the shape {expected} for these images, got {tuple(mask.shape)}")
        dtype = torch.promote_types(computing_dtype(pred), computing_dtype(target))
        with torch.autocast(pred.device.type, enabled=False):
            return self._loss(pred.to(dtype), target.to(dtype), None if mask is None else mask.detach().to(dtype))

    @abstractmethod
    def _loss(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the loss of tensors of one floating-point type."""


def check_rank(image: Tensor, name: str) -> None:
    """Refuse a tensor that is not a batch of 2-D or 3-D images."""
    if image.ndim not in (4, 5):
        raise ValueError(f"{name} must be (B, C, H, W) or (B, C, H, W, D), got the shape {tuple(image.shape)}")


def computing_dtype(image: Tensor) -> torch.dtype:
    """Type to compute in: float64 for a float64 image, else float32."""
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def normalized(weight: Tensor, dim: int | None = None) -> Tensor:
    """Scale non-negative weights to a sum of 1, over one dimension or all; an empty mask stays empty."""
    total = weight.sum() if dim is None else weight.sum(dim, keepdim=True)
    return weight / total.clamp_min(torch.finfo(weight.dtype).tiny)
