# SPDX-License-Identifier: Apache-2.0
"""Resolutions, each half of the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from regplugins.spatial import crop, enlarge, half_resolution


def at_depth(ddf: Tensor, now: int, then: int, full: Sequence[int]) -> Tensor:
    """Bring a field from one number of halvings of a grid to another.

    Args:
        ddf: ``(B, n, *spatial)`` voxels of its own grid.
        now: halvings between that and the full grid.
        then: halvings between the result's grid and the full one.
        full: number of voxels of the full grid.

    Returns:
        ``(B, n, *spatial)`` voxels of its own grid.
    """
    for _ in range(now, then):
        ddf = half_resolution(ddf) / 2
    for depth in range(now - 1, then - 1, -1):
        ddf = crop(enlarge(ddf, 2), [math.ceil(size / 2**depth) for size in full])
    return ddf


def halvings_of(levels: Sequence[tuple[float, int]], spacing: float | Sequence[float]) -> list[tuple[int, int]]:
    """How often a grid is to be halved until its spacing is nearest to that of a level.

    Args:
        levels: spacing in mm and number of iterations of each, coarsest first.
        spacing: of the grid, mm; of several, one an axis, the smallest counts.

    Returns:
        Number of halvings and of iterations of each level.

    Raises:
        ValueError: no level, levels from fine to coarse, fewer than one iteration, or a spacing that is none.
    """
    if not levels or min(iterations for _, iterations in levels) < 1:
        raise ValueError(f"levels must be pairs of a spacing and at least 1 iteration, got {levels}")
    sizes = [size for size, _ in levels]
    if sizes != sorted(sizes, reverse=True):
        raise ValueError(f"the coarsest level must come first, got {sizes}")
    finest = min(spacing) if isinstance(spacing, Sequence) else spacing
    if not sizes[-1] > 0 or not finest > 0:
        raise ValueError(f"spacings must be positive, got levels of {sizes} mm on a grid of {spacing} mm")
    return [(max(0, round(math.log2(size / finest))), iterations) for size, iterations in levels]
