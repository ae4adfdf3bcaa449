# SPDX-License-Identifier: Apache-2.0
"""Resolution levels, each at half the resolution of the next finer one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monai.utils import ensure_tuple
from torch import Tensor

from regplugins.checks import positive, whole
from regplugins.spatial import crop, downsample, upsample_ddf

# Spacing in mm to which levels and distances refer where the grid's spacing is automatic.
REFERENCE_SPACING = 2.0


def resample_ddf(ddf: Tensor, source: int, target: int, shape: Sequence[int]) -> Tensor:
    """Resample a field between two resolution levels of a grid.

    Args:
        ddf: ``(B, n, *spatial)`` voxels of its own grid.
        source: number of halvings of the field's grid.
        target: number of halvings of the result's grid.
        shape: of the full grid.

    Returns:
        ``(B, n, *spatial)`` voxels of its own grid.
    """
    for _ in range(source, target):
        ddf = downsample(ddf) / 2
    for halvings in range(source - 1, target - 1, -1):
        ddf = crop(upsample_ddf(ddf, 2), [math.ceil(size / 2**halvings) for size in shape])
    return ddf


def level_halvings(
    levels: Sequence[tuple[float, int]], spacing: float | Sequence[float] | None
) -> list[tuple[int, int]]:
    """Number of halvings after which the grid's spacing is nearest to that of each level.

    Args:
        levels: spacing in mm and number of iterations of each, coarsest first.
        spacing: of the grid, see ``min_spacing``.

    Returns:
        Number of halvings and of iterations of each level.

    Raises:
        ValueError: if ``levels`` is empty, not ordered coarse to fine, or has an iteration count below 1, or a spacing
            is not positive.
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
    """Smallest voxel size of a grid in mm.

    Args:
        spacing: one number or one per axis, mm; None: automatic, ``REFERENCE_SPACING``.

    Raises:
        ValueError: if a spacing is not a positive number.
    """
    return min(positive("spacing", size) for size in ensure_tuple(REFERENCE_SPACING if spacing is None else spacing))
