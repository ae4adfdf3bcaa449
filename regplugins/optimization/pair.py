# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair by optimisation, coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from regplugins.optimization.displacement import Displacement
from regplugins.spatial import crop, enlarge, half_resolution

# An axis of fewer voxels shows nothing that could be matched.
_LEAST = 8


class PairOptimizer:
    """Lower a training objective of one pair by changing its displacement field, at several resolutions.

    The field lies on every second voxel of a level's images and is linear between; the images of a level are those of
    the next finer one averaged, every second voxel kept.

    Args:
        objective: loss ``(fields, target) -> scalar``, as in training.
        levels: spacing of the images in mm and number of iterations of each level, coarsest first; a spacing is
            rounded to that of the pair, or twice, four times, ... that.
        spacing: of the pair's grid, mm; of several, one an axis, the smallest counts.
        model: how the field is changed; default: ``Displacement()``.

    Raises:
        ValueError: no level, levels from fine to coarse, fewer than one iteration, or a spacing that is none.
    """

    def __init__(
        self,
        objective: nn.Module,
        levels: Sequence[tuple[float, int]],
        spacing: float | Sequence[float] = 1.0,
        model: Displacement | None = None,
    ) -> None:
        if not levels or min(iterations for _, iterations in levels) < 1:
            raise ValueError(f"levels must be pairs of a spacing and at least 1 iteration, got {levels}")
        sizes = [size for size, _ in levels]
        finest = min(spacing) if isinstance(spacing, Sequence) else spacing
        if not finest > 0 or not min(sizes) > 0 or sizes != sorted(sizes, reverse=True):
            raise ValueError(f"spacings must be positive, the coarsest level first, got {sizes} of a grid of {spacing}")
        self.objective = objective
        self.levels = [(max(0, round(math.log2(size / finest))), iterations) for size, iterations in levels]
        self.model = model or Displacement()

    def __call__(self, pair: Tensor, start: Tensor) -> Tensor:
        """
        Args:
            pair: ``(B, 2, *spatial)``, moving and fixed image.
            start: ``(B, n, *spatial)`` displacement in voxels.

        Returns:
            ``(B, n, *spatial)`` displacement in voxels.
        """
        pyramid = [pair]
        # What is too small for a level has it at the coarsest resolution that there is.
        while len(pyramid) <= self.levels[0][0] and min(pyramid[-1].shape[2:]) >= 2 * _LEAST:
            pyramid.append(half_resolution(pyramid[-1]))
        ddf, depth = start, 0
        for halvings, iterations in self.levels:
            level = min(halvings, len(pyramid) - 1)
            # The field is at half the resolution of the images.
            ddf, depth = _at_depth(ddf, depth, level + 1, start.shape[2:]), level + 1
            ddf = self._level(pyramid[level], ddf, iterations)
        return _at_depth(ddf, depth, 0, start.shape[2:])

    def _level(self, pair: Tensor, ddf: Tensor, iterations: int) -> Tensor:
        target = {"moving": pair[:, :1].contiguous(), "fixed": pair[:, 1:].contiguous()}
        shape = list(pair.shape[2:])

        def cost(coarse: Tensor) -> Tensor:
            total: Tensor = self.objective([crop(enlarge(coarse, 2), shape)], target)
            return total

        return self.model.improve(ddf, cost, iterations)


def _at_depth(ddf: Tensor, now: int, then: int, full: Sequence[int]) -> Tensor:
    """Bring a field from one number of halvings of the full grid to another."""
    for _ in range(now, then):
        ddf = half_resolution(ddf) / 2
    for depth in range(now - 1, then - 1, -1):
        ddf = crop(enlarge(ddf, 2), [math.ceil(size / 2**depth) for size in full])
    return ddf
