# SPDX-License-Identifier: Apache-2.0
"""Padding and cropping of images ``(B, C, *spatial)``."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(image: Tensor, divisor: int, mode: str = "replicate") -> Tensor:
    """Pad at the far end of each axis to the next multiple of ``divisor``.

    Args:
        image: ``(B, C, *spatial)``.
        divisor: divisor of the padded sizes.
        mode: of ``torch.nn.functional.pad``.
    """
    padding = [amount for size in reversed(image.shape[2:]) for amount in (0, -size % divisor)]
    return F.pad(image, padding, mode=mode) if any(padding) else image


def crop(image: Tensor, shape: list[int]) -> Tensor:
    """Crop an image to a spatial shape at the near corner, which undoes ``pad_to_multiple``."""
    for axis, size in enumerate(shape):
        image = image.narrow(axis + 2, 0, size)
    return image


def center_crop_or_pad(image: Tensor, shape: list[int]) -> Tensor:
    """Crop an image to a spatial shape about its center."""
    for axis, size in enumerate(shape):
        image = image.narrow(axis + 2, (image.shape[axis + 2] - size) // 2, size)
    return image
