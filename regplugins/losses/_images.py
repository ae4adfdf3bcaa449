# SPDX-License-Identifier: Apache-2.0
"""What the losses ask of images and masks."""

from __future__ import annotations

import torch
from torch import Tensor

# A variance within this many rounding errors of zero is that of a constant: what is left of it is noise, and
# normalizing by it would correlate the noise of one image with that of the other.
ROUNDING_ERRORS = 16


def _check_rank(image: Tensor, name: str) -> None:
    if image.ndim not in (4, 5):
        raise ValueError(f"{name} must be (B, C, H, W) or (B, C, H, W, D), got the shape {tuple(image.shape)}")


def check_image(image: Tensor) -> None:
    _check_rank(image, "image")
    if not image.is_floating_point():
        raise TypeError(f"image must be a floating-point tensor, got {image.dtype}")


def check_images(pred: Tensor, target: Tensor, mask: Tensor | None) -> None:
    _check_rank(pred, "pred")
    if pred.shape != target.shape:
        raise ValueError(f"pred and target differ in shape: {tuple(pred.shape)} and {tuple(target.shape)}")
    if not (pred.is_floating_point() and target.is_floating_point()):
        raise TypeError(f"pred and target must be floating-point tensors, got {pred.dtype} and {target.dtype}")
    if mask is not None and mask.shape != (pred.shape[0], 1, *pred.shape[2:]):
        expected = (pred.shape[0], 1, *pred.shape[2:])
        raise ValueError(f"mask must be of the shape {expected} for these images, got {tuple(mask.shape)}")


def computing_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 if any tensor is of that type, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def normalized(weight: Tensor, dim: int | None = None) -> Tensor:
    """Scale weights of at least 0 to a sum of 1, over one dimension or all; an empty mask stays empty."""
    total = weight.sum() if dim is None else weight.sum(dim, keepdim=True)
    return weight / total.clamp_min(torch.finfo(weight.dtype).tiny)
