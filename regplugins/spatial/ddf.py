# SPDX-License-Identifier: Apache-2.0
"""Algebra of dense displacement fields (DDF) in voxels: compose, exponentiate, invert, Jacobian determinant.

All fields are ``(B, n, *spatial)`` tensors, channel ``k`` along spatial axis ``k``; ``u`` stands for the map ``x -> x +
u(x)``. Outside its grid a field continues from its border.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from regplugins.spatial.interpolation import interpolate_linear
from regplugins.spatial.padding import crop
from regplugins.spatial.warp import warp

# Bounds the memory of an inversion.
_VOXELS_AT_A_TIME = 2**20
# A volume ratio below which a Jacobian is not inverted.
_FLAT = 0.01


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Displacement of the map that applies ``inner`` first, then ``outer``: ``inner(x) + outer(x + inner(x))``.

    Args:
        outer: ``(B, n, *spatial)`` voxels.
        inner: ``(B, n, *spatial)`` voxels.

    Returns:
        ``(B, n, *spatial)`` voxels.
    """
    return inner + warp(outer, inner)


def exponentiate(velocity: Tensor, steps: int = 7) -> Tensor:
    """Integrate a stationary velocity field over unit time by scaling and squaring (Arsigny et al., MICCAI 2006).

    Args:
        velocity: ``(B, n, *spatial)`` voxels per unit time.
        steps: number of squarings; the field is divided by ``2 ** steps`` first.

    Returns:
        ``(B, n, *spatial)`` displacement in voxels.

    Raises:
        ValueError: ``steps`` is negative.
    """
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    ddf = velocity / 2**steps
    for _ in range(steps):
        ddf = compose(ddf, ddf)
    return ddf


def invert(ddf: Tensor, iterations: int = 50, tolerance: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Invert a displacement field by fixed-point iteration (Chen et al., Medical Physics 2008).

    Theirs is ``v <- v - (v + u(x + v))``, which converges where the field's gradient is below one. Here the last term
    is divided by the field's mean Jacobian, so that a field that turns or scales everything is no harder than one that
    does not. The residual says whether it converged.

    Args:
        ddf: ``(B, n, *spatial)`` voxels.
        iterations: at most so many.
        tolerance: a voxel is left as it is once its residual is below this along every axis, in voxels.

    Returns:
        The inverse ``(B, n, *spatial)`` in voxels, and the residual ``(B, *spatial)``: the length in voxels of ``v(x) +
        u(x + v(x))``.
    """
    step = _inverse_of_mean_jacobian(ddf)
    ddf = ddf.to(step.dtype)
    result = ddf.new_empty(len(ddf), 2 * ddf.shape[1], ddf[0, 0].numel())
    for item, (forward, matrix) in enumerate(zip(ddf, step, strict=True)):
        for start in range(0, result.shape[2], _VOXELS_AT_A_TIME):
            voxels = torch.arange(start, min(start + _VOXELS_AT_A_TIME, result.shape[2]), device=ddf.device)
            result[item, :, start : start + len(voxels)] = _inverse_at(voxels, forward, matrix, iterations, tolerance)
    inverse, error = result.view(len(ddf), 2, *ddf.shape[1:]).unbind(1)
    return inverse, error.norm(dim=1)


def _inverse_at(voxels: Tensor, ddf: Tensor, step: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Iterate where the residual is above the tolerance; no voxel's inverse depends on another's.

    Args:
        voxels: ``(voxels,)``, their places in the flat field.
        ddf: ``(n, *spatial)`` voxels.
        step: ``(n, n)``.
        iterations: at most so many.
        tolerance: in voxels.

    Returns:
        ``(2 n, voxels)``: the inverse there and what is left of it.
    """
    places = torch.stack(torch.unravel_index(voxels, ddf.shape[1:])).double()
    inverse = -_times(step[None], ddf.flatten(1)[None, :, voxels])[0]
    error = interpolate_linear(ddf, (places + inverse).t()) + inverse
    for _ in range(iterations):
        (left,) = torch.nonzero(error.detach().abs().amax(dim=0) >= tolerance, as_tuple=True)
        if len(left) == 0:
            break
        better = inverse[:, left] - _times(step[None], error[None, :, left])[0]
        inverse[:, left] = better
        error[:, left] = interpolate_linear(ddf, (places[:, left] + better).t()) + better
    return torch.cat([inverse, error])


def _inverse_of_mean_jacobian(ddf: Tensor) -> Tensor:
    """``(B, n, n)``; the identity where the mean Jacobian turns space inside out or flattens it."""
    n = ddf.dim() - 2
    ddf = ddf.to(torch.promote_types(ddf.dtype, torch.float32))
    identity = torch.eye(n).to(ddf).expand(ddf.shape[0], n, n)
    columns = []
    for axis in range(2, n + 2):
        first, last = ddf.select(axis, 0).flatten(2), ddf.select(axis, -1).flatten(2)
        columns.append((last - first).mean(dim=2) / max(ddf.shape[axis] - 1, 1))
    jacobian = identity + torch.stack(columns, dim=2)
    usable = torch.linalg.det(jacobian) > _FLAT
    return torch.linalg.inv(torch.where(usable[:, None, None], jacobian, identity))


def _times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Matrices (B, n, n) times vectors (B, n, *spatial), in the matrices' type whatever the autocast state."""
    with torch.autocast(device_type=vectors.device.type, enabled=False):
        return (matrix @ vectors.to(matrix.dtype).flatten(2)).view_as(vectors)


def enlarge(ddf: Tensor, factor: int) -> Tensor:
    """Interpolate a field linearly onto a finer grid: voxel ``i`` of the coarse one lies on voxel ``factor * i``.

    Args:
        ddf: ``(B, n, *spatial)`` voxels of the coarse grid, 2-D or 3-D.
        factor: how many times finer the new grid is.

    Returns:
        ``(B, n, *(factor * spatial))`` voxels of the fine grid; beyond the last coarse voxel the field is constant.
    """
    n = ddf.dim() - 2
    padded = F.pad(ddf, [0, 1] * n, mode="replicate")
    sizes = [factor * size + 1 for size in ddf.shape[2:]]
    fine = F.interpolate(padded, size=sizes, mode="trilinear" if n == 3 else "bilinear", align_corners=True)
    return factor * crop(fine, [size - 1 for size in sizes])


def jacobian_determinant(ddf: Tensor) -> Tensor:
    """Determinant of the Jacobian of ``x + ddf(x)``, by central differences (one-sided at the border).

    Args:
        ddf: ``(B, n, *spatial)`` voxels, 2-D or 3-D.

    Returns:
        ``(B, *spatial)``; one where nothing changes volume, zero or less where the map folds.

    Raises:
        ValueError: the channels do not fit the spatial axes.
    """
    n = ddf.dim() - 2
    if n not in (2, 3) or ddf.shape[1] != n:
        raise ValueError(f"expected a 2-D or 3-D displacement field (B, n, *spatial), got shape {tuple(ddf.shape)}")
    jacobian: list[list[Tensor]] = []
    for axis in range(n):
        if ddf.shape[2 + axis] > 1:
            (derivative,) = torch.gradient(ddf, dim=2 + axis)
        else:
            derivative = torch.zeros_like(ddf)
        jacobian.append([derivative[:, k] + (1.0 if k == axis else 0.0) for k in range(n)])
    if n == 2:
        return jacobian[0][0] * jacobian[1][1] - jacobian[0][1] * jacobian[1][0]
    (a, b, c), (d, e, f), (g, h, i) = jacobian
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
