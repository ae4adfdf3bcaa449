# SPDX-License-Identifier: Apache-2.0
"""Separable filters and interpolation as products with banded matrices.

For axes of up to some hundred voxels these are faster than convolutions with a kernel for each channel, than PyTorch's
interpolation, and than running sums, of whose cancellation they are free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Pixels of a long axis that one product covers. More cost more multiplications, fewer more overlap.
TILE = 32


def filter_matrix(weights: Sequence[float], size: int, like: Tensor) -> Tensor:
    """Matrix that filters an axis of ``size`` voxels of images like ``(B, C, *spatial)``, zero beyond its border.

    ``weights`` are ``2 r + 1``. It is square, or for a large 2-D image ``(TILE, TILE + 2 r)``: a part of the axis and
    what its windows reach. In 3-D, where an axis is shorter, products of many small parts would take longer than one
    large product.
    """
    radius = len(weights) // 2
    is_long = like.dim() == 4 and size > 8 * TILE + 2 * radius
    matrix = like.new_zeros((TILE, TILE + 2 * radius) if is_long else (size, size))
    reach = min(radius, size - 1)
    for offset in range(-reach, reach + 1):
        matrix.diagonal(offset + radius * is_long).fill_(weights[radius + offset])
    return matrix


def interpolation_matrix(size: int, factor: int, like: Tensor) -> Tensor:
    """Matrix ``(factor * size, size)`` that interpolates an axis linearly: voxel ``i`` comes to lie on ``factor * i``.

    Beyond the last voxel the result is constant.
    """
    voxels = torch.arange(factor * size, device=like.device)
    below, share = voxels // factor, (voxels % factor).to(like.dtype) / factor
    matrix = like.new_zeros(factor * size, size)
    matrix[voxels, below] = 1 - share
    return matrix.index_put_((voxels, (below + 1).clamp(max=size - 1)), share, accumulate=True)


def multiply_axes(image: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply each axis of an image ``(B, C, *spatial)`` by a ``filter_matrix`` or an ``interpolation_matrix``."""
    dtype = image.dtype
    if _products_are_rounded(image.device):
        image, matrices = image.double(), [matrix.double() for matrix in matrices]
    for axis, matrix in enumerate(matrices, start=2):
        (rows, columns), shape = matrix.shape, image.shape
        size = shape[axis]
        lines = image.reshape(shape[:axis].numel(), size, -1)
        if rows < columns:  # overlapping parts of the axis
            count, reach = math.ceil(size / rows), (columns - rows) // 2
            lines = F.pad(lines, (0, 0, reach, count * rows - size + reach)).unfold(1, columns, rows)
            lines = lines @ matrix.T if lines.shape[2] == 1 else matrix @ lines.transpose(2, 3)
            image = lines.reshape(len(lines), count * rows, -1)[:, :size].reshape(shape)
        else:
            lines = matrix @ lines if lines.shape[2] > 1 else lines[..., 0] @ matrix.T
            image = lines.reshape(*shape[:axis], rows, *shape[axis + 1 :])
    return image.to(dtype)


def _products_are_rounded(device: torch.device) -> bool:
    """Tell whether float32 matrix products use TF32 or bfloat16, too coarse for a difference of squares."""
    if not hasattr(torch.backends, "fp32_precision"):  # before PyTorch 2.9
        return torch.get_float32_matmul_precision() != "highest"
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision not in ("none", "ieee")
