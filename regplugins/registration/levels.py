# SPDX-License-Identifier: Apache-2.0
"""Resolutions, each half of the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from regplugins.checks import positive, whole
from regplugins.spatial import crop, downsample, upsample_ddf


def resample_ddf(ddf: Tensor, now: int, then: int, full: Sequence[int]) -> Tensor:
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
        ddf = downsample(ddf) / 2
    for depth in range(now - 1, then - 1, -1):
        ddf = crop(upsample_ddf(ddf, 2), [math.ceil(size / 2**depth) for size in full])
    return ddf


# Of a grid whose spacing is automatic, mm: levels and distances are given as if it were this one, and scale with it.
REFERENCE_SPACING = 2.0


def level_halvings(
    levels: Sequence[tuple[float, int]], spacing: float | Sequence[float] | None
) -> list[tuple[int, int]]:
    """How often a grid is to be halved until its spacing is nearest to that of a level.

    Args:
        levels: spacing in mm and number of iterations of each, coarsest first.
        spacing: of the grid, mm; of several, one an axis, the smallest counts; None: automatic.

    Returns:
        Number of halvings and of iterations of each level.

    Raises:
        ValueError: no level, levels from fine to coarse, fewer than one iteration, or a spacing that is none.
    """
    if not levels or not all(isinstance(level, list | tuple) and len(level) == 2 for level in levels):
        raise ValueError(f"levels must be pairs of a spacing in mm and a number of iterations, got {levels}")
    counts = [whole("the iterations of a level", count) for _, count in levels]
    sizes = [positive("the spacing of a level", size) for size, _ in levels]
    if sizes != sorted(sizes, reverse=True):
        raise ValueError(f"the coarsest level must come first, got {sizes}")
    halvings = [max(0, round(math.log2(size / min_spacing(spacing)))) for size in sizes]
    return list(zip(halvings, counts, strict=True))


def min_spacing(spacing: float | Sequence[float] | None) -> float:
    """The smallest voxel size of a grid.

    Args:
        spacing: one number, or one an axis; None: automatic, ``REFERENCE_SPACING``.

    Raises:
        ValueError: it is none.
    """
    if spacing is None:
        return REFERENCE_SPACING
    return min(positive("spacing", size) for size in (spacing if isinstance(spacing, list | tuple) else [spacing]))
