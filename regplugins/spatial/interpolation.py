# SPDX-License-Identifier: Apache-2.0
"""Values between voxels, at any list of index positions. Outside the array they continue from its border."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from regplugins.spatial.sampling import sample


def interpolate_linear(values: Tensor, index: Tensor) -> Tensor:
    """Linear interpolation (bilinear, trilinear).

    Args:
        values: ``(C, *spatial)`` float32 or float64, 2-D or 3-D.
        index: ``(..., n)`` float64 positions in voxels.

    Returns:
        ``(C, ...)`` in the type of ``values``.
    """
    n = values.ndim - 1
    # Only the normalised positions are rounded to float32: 1e-5 voxel at 256 voxels an axis.
    scale = index.new_tensor([2.0 / max(size - 1, 1) for size in values.shape[1:]])
    positions = (index * scale - 1).to(values.dtype).flip(-1)
    positions = positions.reshape(1, *[1] * (n - 1), -1, n)
    return sample(values[None], positions).view(values.shape[0], *index.shape[:-1])


def interpolate_nearest(values: Tensor, index: Tensor) -> Tensor:
    """Nearest neighbour; half-way positions go up, as in ITK.

    Args:
        values: ``(C, *spatial)`` of any type.
        index: ``(..., n)`` float64 positions in voxels.

    Returns:
        ``(C, ...)`` in the type of ``values``.
    """
    return values.flatten(1)[:, _offset(torch.floor(index + 0.5), values.shape[1:])]


def interpolate_labels(labels: Tensor, index: Tensor) -> Tensor:
    """The class with the largest linearly interpolated indicator; of equals the smallest.

    Only the classes of the surrounding voxels can win, so that time and memory do not depend on how many there are.

    Args:
        labels: ``(1, *spatial)`` of any type, 2-D or 3-D.
        index: ``(..., n)`` float64 positions in voxels.

    Returns:
        ``(1, ...)`` in the type of ``labels``.
    """
    sizes, shape = labels.shape[1:], index.shape[:-1]
    index = index.reshape(-1, len(sizes))
    flat, lower = labels.flatten(), index.floor()
    steps = list(itertools.product((0, 1), repeat=len(sizes)))
    best = flat[_offset(lower, sizes)]
    mixed = torch.zeros_like(best, dtype=torch.bool)
    for step in steps[1:]:
        mixed |= flat[_offset(lower + index.new_tensor(step), sizes)] != best
    # Inside a structure all corners agree: the weights matter at its surface alone.
    best[mixed] = _heaviest(flat, sizes, lower[mixed], (index - lower)[mixed], steps)
    return best.view(1, *shape)


def _heaviest(flat: Tensor, shape: torch.Size, lower: Tensor, fraction: Tensor, steps: list[tuple[int, ...]]) -> Tensor:
    """Of the labels at the corners of each point's cell, the one with the largest sum of interpolation weights."""
    corners, weights = [], []
    for step in steps:
        corner = fraction.new_tensor(step)
        corners.append(flat[_offset(lower + corner, shape)])
        weights.append(torch.where(corner > 0, fraction, 1 - fraction).prod(dim=-1))
    best, best_weight = corners[0], torch.zeros_like(weights[0])
    for label in corners:
        weight = torch.stack([w * (other == label) for other, w in zip(corners, weights, strict=True)]).sum(dim=0)
        wins = (weight > best_weight) | ((weight == best_weight) & (label < best))
        best, best_weight = torch.where(wins, label, best), torch.where(wins, weight, best_weight)
    return best


def _offset(index: Tensor, shape: torch.Size) -> Tensor:
    """(..., n) whole positions, clamped to the array -> (...) int64 offsets in the flattened array."""
    offset = torch.zeros(index.shape[:-1], dtype=torch.int64, device=index.device)
    for k, size in enumerate(shape):
        offset += index[..., k].clamp(0, size - 1).to(torch.int64) * math.prod(shape[k + 1 :])
    return offset
