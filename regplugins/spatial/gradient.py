# SPDX-License-Identifier: Apache-2.0
"""Gradient magnitude of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gradient_magnitude(image: Tensor) -> Tensor:
    """Length of the gradient by central differences: the convolution of Eq. 1 of Xu et al., ICASSP 2021.

    The kernel along each axis is (-1/2, 0, 1/2), so that an edge is not shifted by half a voxel. The image continues
    from its border.

    Args:
        image: ``(B, C, *spatial)``, 2-D or 3-D.

    Returns:
        ``(B, C, *spatial)``, intensity per voxel, each channel separately; its derivative is finite everywhere.
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
