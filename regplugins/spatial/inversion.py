# SPDX-License-Identifier: Apache-2.0
"""Inversion of dense displacement fields (DDF) in voxels, voxel by voxel."""

from __future__ import annotations

import math

import torch
from scipy.spatial import KDTree
from torch import Tensor

from regplugins.spatial.interpolation import interpolate_linear, interpolate_linear_with_gradient

# These bound the memory of an inversion.
_VOXELS_AT_A_TIME = 2**20
_NEWTON_VOXELS_AT_A_TIME = 2**18
_STARTS = 2**20
# Starts for a voxel that no iteration has inverted yet: where a field folds, some lead nowhere.
_STARTS_A_VOXEL = 8
# A volume ratio below which a Jacobian is not inverted.
_FLAT = 0.01
# Fixed-point iterations before the voxels that are left get Newton steps, which cost several times as much each.
_FIXED_POINT_ITERATIONS = 10
# Damping of the first Newton step, relative to a Jacobian of one, and its factor when a step fails.
_DAMPING = 1e-2
_DAMPING_FACTOR = 10.0


def invert_ddf(ddf: Tensor, iterations: int = 50, tolerance: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Invert a displacement field by fixed-point iteration (Chen et al., Medical Physics 2008) and Newton steps.

    The fixed-point step is ``v <- v - (v + u(x + v))``, the last term divided by the field's mean Jacobian, so that a
    field that turns or scales everything is no harder than one that does not. It fails where volume changes much.
    There damped Newton steps follow (Levenberg-Marquardt) with the exact Jacobian of the interpolated field. Voxels
    that still fail start again from the voxels that the field carries nearest to them. Where a field folds, the result
    is one of several points that it carries to the same place.

    Args:
        ddf: ``(B, n, *spatial)`` voxels.
        iterations: at most so many, of both kinds together.
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
            result[item, :, start : start + len(voxels)] = _fixed_point(voxels, forward, matrix, iterations, tolerance)
        if iterations > _FIXED_POINT_ITERATIONS:
            _improve(result[item], forward, iterations - _FIXED_POINT_ITERATIONS, tolerance)
    inverse, error = result.view(len(ddf), 2, *ddf.shape[1:]).unbind(1)
    return inverse, error.norm(dim=1)


def _fixed_point(voxels: Tensor, ddf: Tensor, step: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Iterate where the residual is above the tolerance; no voxel's inverse depends on another's.

    Args:
        voxels: ``(voxels,)``, their places in the flat field.
        ddf: ``(n, *spatial)`` voxels.
        step: ``(n, n)``.
        iterations: at most so many.
        tolerance: in voxels.

    Returns:
        ``(2 n, voxels)``: the inverse there and its residual vector.
    """
    places = torch.stack(torch.unravel_index(voxels, ddf.shape[1:])).double()
    inverse = -_times(step[None], ddf.flatten(1)[None, :, voxels])[0]
    error = interpolate_linear(ddf, (places + inverse).t()) + inverse
    for _ in range(min(iterations, _FIXED_POINT_ITERATIONS)):
        left = _above(error, tolerance)
        if len(left) == 0:
            break
        better = inverse[:, left] - _times(step[None], error[None, :, left])[0]
        inverse[:, left] = better
        error[:, left] = interpolate_linear(ddf, (places[:, left] + better).t()) + better
    return torch.cat([inverse, error])


def _improve(result: Tensor, ddf: Tensor, iterations: int, tolerance: float) -> None:
    """Newton steps, in place, for the voxels of ``(2 n, voxels)`` whose residual is above the tolerance."""
    n = len(ddf)
    for part in _above(result[n:], tolerance).split(_NEWTON_VOXELS_AT_A_TIME):
        result[:, part] = _newton(part, result[:n, part], ddf, iterations, tolerance)
    left = _above(result[n:], tolerance)
    if len(left) == 0:
        return
    starts, tree = _carried_voxels(ddf)
    for part in left.split(_NEWTON_VOXELS_AT_A_TIME):
        places = torch.stack(torch.unravel_index(part, ddf.shape[1:]))
        nearest = torch.from_numpy(tree.query(places.t().cpu().numpy(), k=range(1, _STARTS_A_VOXEL + 1))[1])
        for candidates in nearest.t():
            again = _above(result[n:, part], tolerance)
            start = (starts[:, candidates.clamp(max=starts.shape[1] - 1)].to(places.device) - places).to(ddf.dtype)
            found = _newton(part[again], start[:, again], ddf, iterations, tolerance)
            better = found[n:].norm(dim=0) < result[n:, part[again]].norm(dim=0)
            result[:, part[again[better]]] = found[:, better]


def _newton(voxels: Tensor, start: Tensor, ddf: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Levenberg-Marquardt steps from a start ``(n, voxels)``; a residual never grows.

    Returns:
        ``(2 n, voxels)``: the inverse at these places of the flat field and its residual vector.
    """
    n = len(ddf)
    places = torch.stack(torch.unravel_index(voxels, ddf.shape[1:])).double()
    result, jacobian = _residual(places, start, ddf)
    damping = torch.full_like(start[0], _DAMPING, dtype=torch.float64)
    for _ in range(iterations):
        left = _above(result[n:], tolerance)
        if len(left) == 0:
            break
        now = result[:, left]
        step = _damped_step(now[n:], jacobian[..., left], damping[left]).to(ddf.dtype)
        there, derivative = _residual(places[:, left], now[:n] + step, ddf)
        better = there[n:].norm(dim=0) < now[n:].norm(dim=0)
        result[:, left[better]] = there[:, better]
        jacobian[..., left[better]] = derivative[..., better]
        damping[left] *= torch.where(better, 1 / _DAMPING_FACTOR, _DAMPING_FACTOR)
    return result


def _residual(places: Tensor, inverse: Tensor, ddf: Tensor) -> tuple[Tensor, Tensor]:
    """``(2 n, voxels)``, the inverse and what it leaves, and the Jacobian ``(n, n, voxels)`` of the map there."""
    value, gradient = interpolate_linear_with_gradient(ddf, (places + inverse).t())
    return torch.cat([inverse, value + inverse]), gradient + torch.eye(len(ddf)).to(gradient)[..., None]


def _damped_step(error: Tensor, jacobian: Tensor, damping: Tensor) -> Tensor:
    """``-(J^T J + damping)^-1 J^T error``, ``(n, voxels)``, in float64."""
    n = len(error)
    matrix = jacobian.permute(2, 0, 1).double()
    transposed = matrix.transpose(1, 2)
    normal = transposed @ matrix + damping[:, None, None] * torch.eye(n).to(matrix)
    return -torch.linalg.solve(normal, transposed @ error.t()[..., None].double())[..., 0].t()


def _carried_voxels(ddf: Tensor) -> tuple[Tensor, KDTree]:
    """Voxels ``(n, number)`` of a field, every one or every second and so on, and where it carries them."""
    n = len(ddf)
    stride = max(1, math.ceil((ddf[0].numel() / _STARTS) ** (1 / n)))
    axes = [torch.arange(0, size, stride, dtype=torch.float64) for size in ddf.shape[1:]]
    voxels = torch.stack(torch.meshgrid(axes, indexing="ij")).flatten(1)
    carried = ddf.detach()[(slice(None), *[slice(None, None, stride)] * n)].flatten(1).cpu()
    return voxels, KDTree((voxels + carried).t().numpy())


def _above(error: Tensor, tolerance: float) -> Tensor:
    """Places of ``(n, voxels)`` where an axis' residual is at or above the tolerance."""
    return torch.nonzero(error.detach().abs().amax(dim=0) >= tolerance).flatten()


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
