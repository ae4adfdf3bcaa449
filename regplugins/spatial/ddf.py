# SPDX-License-Identifier: Apache-2.0
"""Algebra of dense displacement fields (DDF) in voxels: compose, integrate, upsample, subsample, Jacobian
determinant.

A field ``u``, ``(B, n, *spatial)``, stands for the map ``x -> x + u(x)``. Outside its grid it continues from its
border.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regplugins.spatial.filters import interpolation_matrix, multiply_axes
from regplugins.spatial.images import crop
from regplugins.spatial.warp import warp


def per_axis(values: Sequence[float], like: Tensor) -> Tensor:
    """One value for each component of a field like ``(B, n, *spatial)``, to multiply it by: ``(1, n, 1, ...)``."""
    return like.new_tensor(values).reshape(1, len(values), *(1,) * len(values))


def compose_ddf(outer: Tensor, inner: Tensor) -> Tensor:
    """Displacement of the map that applies ``inner`` first, then ``outer``: ``inner(x) + outer(x + inner(x))``.

    All fields are ``(B, n, *spatial)`` voxels.
    """
    return inner + warp(outer, inner)


def integrate_velocity(velocity: Tensor, steps: int = 7) -> Tensor:
    """Integrate a stationary velocity field over unit time by scaling and squaring (Arsigny et al., MICCAI 2006).

    The velocity is ``(B, n, *spatial)`` voxels per unit time, the result a displacement in voxels. ``steps`` is the
    number of squarings; ``ValueError`` if it is negative.
    """
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    ddf = velocity / 2**steps
    for _ in range(steps):
        ddf = compose_ddf(ddf, ddf)
    return ddf


def upsample_ddf(ddf: Tensor, factor: int) -> Tensor:
    """Interpolate a field linearly onto a finer grid: coarse voxel ``i`` lies on fine voxel ``factor * i``.

    The field is ``(B, n, *spatial)`` voxels of the coarse grid, 2-D or 3-D. The result is ``(B, n, *(factor *
    spatial))`` voxels of the fine grid, constant beyond the last coarse voxel.
    """
    n, sizes = ddf.dim() - 2, [factor * size for size in ddf.shape[2:]]
    padded = F.pad(ddf, [0, 1] * n, mode="replicate")
    beyond = [size + 1 for size in sizes]
    fine = F.interpolate(padded, size=beyond, mode="trilinear" if n == 3 else "bilinear", align_corners=True)
    return factor * crop(fine, sizes)


def upsample_ddf_by_axis(ddf: Tensor, factors: Sequence[int]) -> Tensor:
    """Interpolate a field as ``upsample_ddf`` does, in less time and by a factor for each axis.

    It cannot be scripted or exported.
    """
    matrices = [interpolation_matrix(size, factor, ddf) for size, factor in zip(ddf.shape[2:], factors, strict=True)]
    return multiply_axes(per_axis(factors, ddf) * ddf, matrices)


def subsample_ddf(ddf: Tensor, factor: int) -> Tensor:
    """Take every ``factor``-th voxel of a field along each axis, which undoes ``upsample_ddf``.

    Args:
        ddf: ``(B, n, *spatial)`` voxels of the fine grid.
        factor: ratio of the resolutions.

    Returns:
        ``(B, n, *ceil(spatial / factor))`` voxels of the coarse grid.
    """
    for axis in range(2, ddf.dim()):
        ddf = ddf[(slice(None),) * axis + (slice(None, None, factor),)]
    return ddf / factor


def jacobian_determinant(ddf: Tensor) -> Tensor:
    """Determinant of the Jacobian of ``x + ddf(x)``, by central differences (one-sided at the border).

    Args:
        ddf: ``(B, n, *spatial)`` voxels, 2-D or 3-D.

    Returns:
        ``(B, *spatial)``; one where volume is preserved, zero or less where the map folds.

    Raises:
        ValueError: if the channels do not fit the spatial axes.
    """
    n = ddf.dim() - 2
    if n not in (2, 3) or ddf.shape[1] != n:
        raise ValueError(f"expected a 2-D or 3-D displacement field (B, n, *spatial), got shape {tuple(ddf.shape)}")
    jacobian: list[list[Tensor]] = []
    for axis in range(n):
        flat = ddf.shape[2 + axis] == 1
        derivative = torch.zeros_like(ddf) if flat else torch.gradient(ddf, dim=2 + axis)[0]
        jacobian.append([derivative[:, k] + (1.0 if k == axis else 0.0) for k in range(n)])
    if n == 2:
        return jacobian[0][0] * jacobian[1][1] - jacobian[0][1] * jacobian[1][0]
    (a, b, c), (d, e, f), (g, h, i) = jacobian
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def spline_basis(size: int, step: float) -> Tensor:
    """Values ``(size, control points)`` float64 of the control points' splines at the voxels of one axis.

    ``step`` is the number of control points per voxel. The second control point lies on voxel 0.
    """
    from scipy.interpolate import BSpline  # a tenth of the start of a command on transform files

    positions = np.arange(size) * step
    count = math.floor(positions[-1]) + 4
    knots = np.arange(-3, count + 1)  # spline k has its support between the knots k - 3 and k + 1
    return torch.from_numpy(BSpline.design_matrix(positions, knots.astype(float), 3).toarray())


def spline_values(coefficients: Tensor, bases: Sequence[Tensor]) -> Tensor:
    """Sum of splines, ``(..., *sizes)``, each weighted by its coefficient, ``(..., *control points)``.

    ``bases`` holds the ``spline_basis`` of each of the last axes.
    """
    for axis, basis in enumerate(bases, start=-len(bases)):
        coefficients = torch.tensordot(coefficients, basis, dims=([axis], [1])).movedim(-1, axis)
    return coefficients
