# SPDX-License-Identifier: Apache-2.0
"""Interpolation of voxel values at index positions. Outside the array, values continue from its border."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from regplugins.spatial.warp import sample

# Axes are parallel if they deviate by less than this over the whole grid, voxels.
_PARALLEL = 1e-5


def interpolate_linear(values: Tensor, index: Tensor) -> Tensor:
    """Interpolate linearly (bilinear, trilinear): ``(C, ...)`` in the type of the values.

    Values are ``(C, *spatial)`` float32 or float64, 2-D or 3-D, positions ``(..., n)`` float64 in voxels.
    """
    n = values.ndim - 1
    # Only the normalized positions are rounded to float32: 1e-5 voxel at 256 voxels an axis.
    scale = index.new_tensor([2.0 / max(size - 1, 1) for size in values.shape[1:]])
    positions = (index * scale - 1).to(values.dtype).flip(-1)
    positions = positions.reshape(1, *[1] * (n - 1), -1, n)
    return sample(values[None], positions).view(values.shape[0], *index.shape[:-1])


def interpolate_along_axes(values: Tensor, to_index: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Interpolate linearly on a grid whose axes are parallel to those of the array, one axis after the other.

    The result ``(C, *shape)`` is that of ``interpolate_linear`` at all voxels of the grid, in a fraction of the time.
    It is None if an axis of the grid is oblique to the array. ``to_index``, ``(n + 1, n + 1)`` float64, leads from the
    grid's voxel indices to those of the array.
    """
    n = values.ndim - 1
    axes = to_index[:n, :n].abs().argmax(dim=0)
    along = to_index[axes, torch.arange(n)]
    oblique = to_index[:n, :n].clone()
    oblique[axes, torch.arange(n)] = 0
    offset = oblique.abs() @ torch.tensor(shape, dtype=torch.float64)
    if len(set(axes.tolist())) < n or bool((offset > _PARALLEL).any()):
        return None
    values = values.permute(0, *(axes + 1).tolist())
    neighbors = [_neighbors(along[k] * torch.arange(shape[k]) + to_index[axes[k], n], values, k) for k in range(n)]
    result = values.new_empty((values.shape[0], *shape))
    for component, out in zip(values, result, strict=True):
        for k in reversed(range(1, n)):
            lower, upper, weight = neighbors[k]
            weight = weight.view([-1 if axis == k else 1 for axis in range(n)])
            component = torch.lerp(component.index_select(k, lower), component.index_select(k, upper), weight)
        # Row by row, to use no memory beyond the result.
        for row, (low, up, weight) in enumerate(zip(*neighbors[0], strict=True)):
            out[row] = torch.lerp(component[low], component[up], weight)
    return result


def _neighbors(index: Tensor, values: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper neighbor of each position along an axis of ``(C, *spatial)``, and the weight of the upper one."""
    last = values.shape[axis + 1] - 1
    index = index.clamp(0, last)
    lower = index.floor()
    upper = (lower + 1).clamp(max=last)
    return lower.long().to(values.device), upper.long().to(values.device), (index - lower).to(values)


def interpolate_linear_with_gradient(values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolate linearly, with the exact derivative; outside the array the derivative across the border is zero.

    Arguments are as of ``interpolate_linear``, but positions ``(points, n)``. Returns values ``(C, points)`` and
    derivatives ``(C, n, points)`` per voxel, in the type of ``values``.
    """
    last = index.new_tensor(values.shape[1:]) - 1
    inside = (index >= 0) & (index <= last)
    index = index.minimum(last).clamp(min=0)
    lower = index.floor().minimum(last - 1).clamp(min=0)
    upper = (lower + 1).minimum(last)
    fraction = (index - lower).to(values.dtype).t()
    strides = index.new_tensor([math.prod(values.shape[k + 1 :]) for k in range(1, values.ndim)])
    # Along each axis, of the lower and the upper neighbor.
    offset = torch.stack([lower * strides, upper * strides], dim=-1).long().permute(1, 2, 0)
    weight = torch.stack([1 - fraction, fraction], dim=1)
    sign = torch.tensor([[-1.0], [1.0]]).to(weight)
    corner = values.flatten(1)[:, _at_corners(torch.add, offset)]
    weights = _at_corners(torch.mul, weight)
    slopes = torch.stack([_at_corners(torch.mul, [*weight[:k], sign, *weight[k + 1 :]]) for k in range(len(weight))])
    value = sum(part * share for part, share in zip(corner.unbind(1), weights, strict=True))
    gradient = sum(part[:, None] * slope for part, slope in zip(corner.unbind(1), slopes.unbind(1), strict=True))
    return value, gradient * inside.t().to(values.dtype)


def _at_corners(combine: Callable[[Tensor, Tensor], Tensor], ends: Iterable[Tensor]) -> Tensor:
    """Combine the values ``(2, points)`` of each axis at all corners of a cell, ``(2 ** n, points)``."""
    return functools.reduce(lambda done, end: combine(done[..., None, :], end), ends).flatten(0, -2)


def interpolate_nearest(values: Tensor, index: Tensor) -> Tensor:
    """Nearest neighbor of ``(C, *spatial)`` at ``(..., n)`` voxel positions; as in ITK, half-way positions round up."""
    return values.flatten(1)[:, _offset(torch.floor(index + 0.5), values.shape[1:])]


def interpolate_labels(labels: Tensor, index: Tensor) -> Tensor:
    """Label with the largest linearly interpolated indicator; the smallest of equals.

    Only labels of the surrounding voxels are compared, so that the cost does not depend on their number. Labels are
    ``(1, *spatial)`` of any type, 2-D or 3-D, positions ``(..., n)`` float64 in voxels. The result is ``(1, ...)`` in
    the type of the labels.
    """
    sizes, shape = labels.shape[1:], index.shape[:-1]
    index = index.reshape(-1, len(sizes))
    flat, lower = labels.flatten(), index.floor()
    steps = list(itertools.product((0, 1), repeat=len(sizes)))
    best = flat[_offset(lower, sizes)]
    mixed = torch.zeros_like(best, dtype=torch.bool)
    for step in steps[1:]:
        mixed |= flat[_offset(lower + index.new_tensor(step), sizes)] != best
    # Weights matter only at the surface of a structure: inside it all corners agree.
    best[mixed] = _heaviest(flat, sizes, lower[mixed], (index - lower)[mixed], steps)
    return best.view(1, *shape)


def _heaviest(flat: Tensor, shape: torch.Size, lower: Tensor, fraction: Tensor, steps: list[tuple[int, ...]]) -> Tensor:
    """Label with the largest sum of interpolation weights over the corners of each point's cell."""
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
    """Offsets ``(...)`` int64 in the flattened array of whole positions ``(..., n)``, clamped to the array."""
    offset = torch.zeros(index.shape[:-1], dtype=torch.int64, device=index.device)
    for k, size in enumerate(shape):
        offset += index[..., k].clamp(0, size - 1).to(torch.int64) * math.prod(shape[k + 1 :])
    return offset
