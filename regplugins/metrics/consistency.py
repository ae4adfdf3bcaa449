# SPDX-License-Identifier: Apache-2.0
"""Inverse consistency of a transform and its inverse."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from regplugins.spatial.grid import Grid


def sample_points(grid: Grid, count: int = 20_000, seed: int = 0, mask: Tensor | None = None) -> Tensor:
    """Random points ``(count, n)`` of a grid, world mm, float64.

    They are uniform between the outermost voxel centers, or at most ``count`` voxels of a mask ``(1, *grid.shape)``.
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
        backward: its approximate inverse.
        points: ``(n, d)`` world mm.
        domain: grid of ``backward``. Points that ``forward`` maps outside it are left out: there a field is only
            extrapolated.

    Returns:
        ``(m,)`` mm for the ``m <= n`` points whose image lies inside ``domain``, in their order.
    """
    image = forward(points)
    inside = domain.contains(image)
    return (backward(image[inside]) - points[inside]).norm(dim=1)
