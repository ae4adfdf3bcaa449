# SPDX-License-Identifier: Apache-2.0
"""Inverse consistency: how far from home a point is after the way there and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from regplugins.spatial.grid import Grid


def sample_points(grid: Grid, count: int = 20_000, seed: int = 0, mask: Tensor | None = None) -> Tensor:
    """Random points of a grid, uniform between its outermost voxel centers, or random voxels of a mask.

    Args:
        grid: of ``n`` dimensions.
        count: number of points; of a mask at most so many.
        seed: the same seed gives the same points.
        mask: ``(1, *grid.shape)``, not zero where voxels may be taken.

    Returns:
        ``(count, n)`` world mm, float64.
    """
    if mask is not None:
        voxels = mask[0].nonzero().to(torch.float64)
        order = torch.randperm(len(voxels), generator=torch.Generator().manual_seed(seed))
        return grid.index_to_world(voxels[order[:count]])
    unit = torch.rand(count, grid.ndim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return grid.index_to_world(unit * (torch.tensor(grid.shape, dtype=torch.float64) - 1))


def inverse_consistency_error(
    forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor], Tensor], points: Tensor, domain: Grid
) -> Tensor:
    """Distance ``|backward(forward(x)) - x|`` (Christensen and Johnson, IEEE TMI 2001, as a distance per point).

    Args:
        forward: maps world points ``(n, d)`` mm to world points.
        backward: its supposed inverse.
        points: where to measure, ``(n, d)`` world mm.
        domain: the grid on which ``backward`` is known. A point that ``forward`` carries outside it is left out:
            there a displacement field merely continues from its border.

    Returns:
        ``(m,)`` mm for the ``m <= n`` points whose image lies inside ``domain``, in their order.
    """
    image = forward(points)
    inside = domain.contains(image)
    return (backward(image[inside]) - points[inside]).norm(dim=1)
