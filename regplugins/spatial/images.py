# SPDX-License-Identifier: Apache-2.0
"""Padding, cropping and gradients of images ``(B, C, *spatial)``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(image: Tensor, divisor: int, mode: str = "replicate") -> Tensor:
    """Pad ``(B, C, *spatial)`` at the far end of each axis to the next multiple of ``divisor``, as ``F.pad``."""
    padding = [amount for size in reversed(image.shape[2:]) for amount in (0, -size % divisor)]
    return F.pad(image, padding, mode=mode) if any(padding) else image


def crop(image: Tensor, shape: list[int]) -> Tensor:
    """Crop an image to a spatial shape at the near corner, which undoes ``pad_to_multiple``."""
    for axis, size in enumerate(shape):
        image = image.narrow(axis + 2, 0, size)
    return image


def center_crop(image: Tensor, shape: list[int]) -> Tensor:
    """Crop an image to a spatial shape about its center."""
    for axis, size in enumerate(shape):
        image = image.narrow(axis + 2, (image.shape[axis + 2] - size) // 2, size)
    return image


def gradient_magnitude(image: Tensor) -> Tensor:
    """Length of the gradient by central differences: the convolution of Eq. 1 of Xu et al., ICASSP 2021.

    The kernel along each axis is (-1/2, 0, 1/2), so that an edge is not shifted by half a voxel. The image, ``(B, C,
    *spatial)``, 2-D or 3-D, continues from its border. The result has its shape, in intensity per voxel, each channel
    separately.
    """
    n = image.dim() - 2
    padded = F.pad(image, [1, 1] * n, mode="replicate")
    squares = torch.zeros_like(image)
    for axis in range(n):
        middle = padded
        for other in range(n):
            if other != axis:
                middle = middle.narrow(other + 2, 1, image.shape[other + 2])
        size = image.shape[axis + 2]
        difference = (middle.narrow(axis + 2, 2, size) - middle.narrow(axis + 2, 0, size)) / 2
        squares = squares + difference * difference
    # Keeps the derivative of the root finite where the image is flat: there it is zero.
    flat = squares == 0
    return squares.masked_fill(flat, 1.0).sqrt().masked_fill(flat, 0.0)
