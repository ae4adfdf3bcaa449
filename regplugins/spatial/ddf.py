# SPDX-License-Identifier: Apache-2.0
"""Algebra of dense displacement fields (DDF) in voxels: compose, integrate, upsample, subsample, Jacobian
determinant.

A field ``u``, ``(B, n, *spatial)``, stands for the map ``x -> x + u(x)``. Outside its grid it continues from its
border.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from regplugins.spatial.padding import crop
from regplugins.spatial.warp import warp


def compose_ddf(outer: Tensor, inner: Tensor) -> Tensor:
    """Displacement of the map that applies ``inner`` first, then ``outer``: ``inner(x) + outer(x + inner(x))``.

    All fields are ``(B, n, *spatial)`` voxels.
    """
    return inner + warp(outer, inner)


def integrate_velocity(velocity: Tensor, steps: int = 7) -> Tensor:
    """Integrate a stationary velocity field over unit time by scaling and squaring (Arsigny et al., MICCAI 2006).

    Args:
        velocity: ``(B, n, *spatial)`` voxels per unit time.
        steps: number of squarings.

    Returns:
        ``(B, n, *spatial)`` displacement in voxels.

    Raises:
        ValueError: if ``steps`` is negative.
    """
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    ddf = velocity / 2**steps
    for _ in range(steps):
        ddf = compose_ddf(ddf, ddf)
    return ddf


def upsample_ddf(ddf: Tensor, factor: int) -> Tensor:
    """Interpolate a field linearly onto a finer grid: coarse voxel ``i`` lies on fine voxel ``factor * i``.

    Args:
        ddf: ``(B, n, *spatial)`` voxels of the coarse grid, 2-D or 3-D.
        factor: ratio of the resolutions.

    Returns:
        ``(B, n, *(factor * spatial))`` voxels of the fine grid; constant beyond the last coarse voxel.
    """
    n = ddf.dim() - 2
    padded = F.pad(ddf, [0, 1] * n, mode="replicate")
    sizes = [factor * size + 1 for size in ddf.shape[2:]]
    fine = F.interpolate(padded, size=sizes, mode="trilinear" if n == 3 else "bilinear", align_corners=True)
    return factor * crop(fine, [size - 1 for size in sizes])


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
