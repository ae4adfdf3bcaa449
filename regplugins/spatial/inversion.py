# SPDX-License-Identifier: Apache-2.0
"""Inversion of dense displacement fields (DDF) in voxels, each voxel independently."""

from __future__ import annotations

import math

import torch
from scipy.spatial import KDTree
from torch import Tensor

from regplugins.spatial.interpolation import interpolate_linear, interpolate_linear_with_gradient

# Chunk sizes, which bound the memory of an inversion.
_CHUNK = 2**20
_NEWTON_CHUNK = 2**18
_MAX_STARTS = 2**20
# Further starts of a voxel that has not converged. Where a field folds, some of them fail.
_STARTS_PER_VOXEL = 8
# Smallest determinant of a Jacobian that is inverted.
_MIN_DETERMINANT = 0.01
# Iterations before Newton steps, each of which costs several times as much.
_FIXED_POINT_ITERATIONS = 10
# Damping of the first Newton step, relative to a unit Jacobian, and its factor when a step fails.
_DAMPING = 1e-2
_DAMPING_FACTOR = 10.0


def invert_ddf(ddf: Tensor, iterations: int = 50, tolerance: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Invert a displacement field by fixed-point iteration (Chen et al., Medical Physics 2008) and Newton steps.

    The fixed-point step is ``v <- v - J^-1 (v + u(x + v))`` with the field's mean Jacobian ``J``, so that a global
    rotation or scaling converges as fast as none. It fails where volume changes much. Voxels that have not converged
    take damped Newton steps (Levenberg-Marquardt) with the exact Jacobian of the interpolated field. Voxels that still
    fail restart from the voxels that the field maps nearest to them. Where a field folds, the result is one of several
    solutions.

    Args:
        ddf: ``(B, n, *spatial)`` voxels.
        iterations: largest number, of both kinds together.
        tolerance: a voxel has converged once its residual is below this along every axis, in voxels.

    Returns:
        The inverse ``(B, n, *spatial)`` in voxels, and the residual ``|v(x) + u(x + v(x))|``, ``(B, *spatial)`` in
            voxels.
    """
    step = _inverse_of_mean_jacobian(ddf)
    ddf = ddf.to(step.dtype)
    result = ddf.new_empty(len(ddf), 2 * ddf.shape[1], ddf[0, 0].numel())
    for item, (forward, matrix) in enumerate(zip(ddf, step, strict=True)):
        for voxels in torch.arange(result.shape[2], device=ddf.device).split(_CHUNK):
            result[item][:, voxels] = _fixed_point(voxels, forward, matrix, iterations, tolerance)
        if iterations > _FIXED_POINT_ITERATIONS:
            _improve(result[item], forward, iterations - _FIXED_POINT_ITERATIONS, tolerance)
    inverse, error = result.view(len(ddf), 2, *ddf.shape[1:]).unbind(1)
    return inverse, error.norm(dim=1)


def _fixed_point(voxels: Tensor, ddf: Tensor, step: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Iterate the voxels at flat indices of a field ``(n, *spatial)`` until they converge.

    Returns ``(2 n, voxels)``: the inverse and its residual vector.
    """
    positions = torch.stack(torch.unravel_index(voxels, ddf.shape[1:])).double()
    inverse = -_times(step, ddf.flatten(1)[:, voxels])
    error = interpolate_linear(ddf, (positions + inverse).t()) + inverse
    for _ in range(min(iterations, _FIXED_POINT_ITERATIONS)):
        active = _not_converged(error, tolerance)
        if len(active) == 0:
            break
        update = inverse[:, active] - _times(step, error[:, active])
        inverse[:, active] = update
        error[:, active] = interpolate_linear(ddf, (positions[:, active] + update).t()) + update
    return torch.cat([inverse, error])


def _improve(result: Tensor, ddf: Tensor, iterations: int, tolerance: float) -> None:
    """Take Newton steps, in place, for the voxels of ``(2 n, voxels)`` that have not converged."""
    n = len(ddf)
    for part in _not_converged(result[n:], tolerance).split(_NEWTON_CHUNK):
        result[:, part] = _newton(part, result[:n, part], ddf, iterations, tolerance)
    remaining = _not_converged(result[n:], tolerance)
    if len(remaining) == 0:
        return
    starts, tree = _mapped_voxels(ddf)
    for part in remaining.split(_NEWTON_CHUNK):
        positions = torch.stack(torch.unravel_index(part, ddf.shape[1:]))
        nearest = torch.from_numpy(tree.query(positions.t().cpu().numpy(), k=range(1, _STARTS_PER_VOXEL + 1))[1])
        for candidates in nearest.t():
            active = _not_converged(result[n:, part], tolerance)
            start = (starts[:, candidates.clamp(max=starts.shape[1] - 1)].to(positions.device) - positions).to(
                ddf.dtype
            )
            found = _newton(part[active], start[:, active], ddf, iterations, tolerance)
            better = found[n:].norm(dim=0) < result[n:, part[active]].norm(dim=0)
            result[:, part[active[better]]] = found[:, better]


def _newton(voxels: Tensor, start: Tensor, ddf: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Take Levenberg-Marquardt steps from ``start``, ``(n, voxels)``; a residual never grows.

    Returns:
        ``(2 n, voxels)``: the inverse at these flat indices and its residual vector.
    """
    n = len(ddf)
    positions = torch.stack(torch.unravel_index(voxels, ddf.shape[1:])).double()
    result, jacobian = _residual(positions, start, ddf)
    damping = torch.full_like(start[0], _DAMPING, dtype=torch.float64)
    for _ in range(iterations):
        active = _not_converged(result[n:], tolerance)
        if len(active) == 0:
            break
        current = result[:, active]
        step = _damped_step(current[n:], jacobian[..., active], damping[active]).to(ddf.dtype)
        trial, derivative = _residual(positions[:, active], current[:n] + step, ddf)
        better = trial[n:].norm(dim=0) < current[n:].norm(dim=0)
        result[:, active[better]] = trial[:, better]
        jacobian[..., active[better]] = derivative[..., better]
        damping[active] *= torch.where(better, 1 / _DAMPING_FACTOR, _DAMPING_FACTOR)
    return result


def _residual(positions: Tensor, inverse: Tensor, ddf: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse and residual vector ``(2 n, voxels)``, and the Jacobian ``(n, n, voxels)`` of the map."""
    value, gradient = interpolate_linear_with_gradient(ddf, (positions + inverse).t())
    return torch.cat([inverse, value + inverse]), gradient + torch.eye(len(ddf)).to(gradient)[..., None]


def _damped_step(error: Tensor, jacobian: Tensor, damping: Tensor) -> Tensor:
    """``-(J^T J + damping)^-1 J^T error``, ``(n, voxels)``, in float64."""
    n = len(error)
    matrix = jacobian.permute(2, 0, 1).double()
    transposed = matrix.transpose(1, 2)
    normal = transposed @ matrix + damping[:, None, None] * torch.eye(n).to(matrix)
    return -torch.linalg.solve(normal, transposed @ error.t()[..., None].double())[..., 0].t()


def _mapped_voxels(ddf: Tensor) -> tuple[Tensor, KDTree]:
    """Regular subset ``(n, number)`` of a field's voxels, and a tree of the points to which it maps them."""
    n = len(ddf)
    stride = max(1, math.ceil((ddf[0].numel() / _MAX_STARTS) ** (1 / n)))
    axes = [torch.arange(0, size, stride, dtype=torch.float64) for size in ddf.shape[1:]]
    voxels = torch.stack(torch.meshgrid(axes, indexing="ij")).flatten(1)
    displacement = ddf.detach()[(slice(None), *[slice(None, None, stride)] * n)].flatten(1).cpu()
    return voxels, KDTree((voxels + displacement).t().numpy())


def _not_converged(error: Tensor, tolerance: float) -> Tensor:
    """Indices of ``(n, voxels)`` whose residual reaches the tolerance along an axis."""
    return torch.nonzero(error.detach().abs().amax(dim=0) >= tolerance).flatten()


def _inverse_of_mean_jacobian(ddf: Tensor) -> Tensor:
    """Inverse of the mean Jacobian, ``(B, n, n)``; the identity where that is negative or nearly singular."""
    n = ddf.dim() - 2
    ddf = ddf.to(torch.promote_types(ddf.dtype, torch.float32))
    identity = torch.eye(n).to(ddf).expand(ddf.shape[0], n, n)
    columns = []
    for axis in range(2, n + 2):
        first, last = ddf.select(axis, 0).flatten(2), ddf.select(axis, -1).flatten(2)
        columns.append((last - first).mean(dim=2) / max(ddf.shape[axis] - 1, 1))
    jacobian = identity + torch.stack(columns, dim=2)
    usable = torch.linalg.det(jacobian) > _MIN_DETERMINANT
    return torch.linalg.inv(torch.where(usable[:, None, None], jacobian, identity))


def _times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Product of a matrix ``(n, n)`` and vectors ``(n, voxels)``, in the matrix's type whatever the autocast state."""
    with torch.autocast(device_type=vectors.device.type, enabled=False):
        return matrix @ vectors.to(matrix.dtype)
