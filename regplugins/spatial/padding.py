# SPDX-License-Identifier: Apache-2.0
"""Sizes that a network takes, and back."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(image: Tensor, divisor: int, mode: str = "replicate") -> Tensor:
    """Pad at the far end of each axis to the next multiple of ``divisor``.

    Args:
        image: ``(B, C, *spatial)``.
        divisor: what the sizes are made multiples of.
        mode: of ``torch.nn.functional.pad``: "replicate" continues the border, "constant" adds zeros.

    Returns:
        ``(B, C, *padded)``; the image itself if it fits.
    """
    padding = [amount for size in reversed(image.shape[2:]) for amount in (0, -size % divisor)]
    return F.pad(image, padding, mode=mode) if any(padding) else image


def crop(image: Tensor, shape: list[int]) -> Tensor:
    """The near corner of an image ``(B, C, *spatial)`` of the given spatial shape: undoes ``pad_to_multiple``."""
    for axis, size in enumerate(shape):
        image = image.narrow(axis + 2, 0, size)
    return image


def center_crop_or_pad(image: Tensor, shape: list[int]) -> Tensor:
    """The middle of an image ``(B, C, *spatial)``, of a shape that leaves as much on either side."""
    for axis, size in enumerate(shape):
        image = image.narrow(axis + 2, (image.shape[axis + 2] - size) // 2, size)
    return image
