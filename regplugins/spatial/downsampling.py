# SPDX-License-Identifier: Apache-2.0
"""Displacement fields on coarser grids."""

from __future__ import annotations

import torch
from torch import Tensor

from regplugins.spatial.grid import Grid
from regplugins.spatial.transforms import DisplacementField, row_chunks

# Weight of the squared second differences. It determines coarse voxels that hardly any fine voxel depends on.
_SMOOTHNESS = 1e-3


def downsample_field(field: DisplacementField, spacing: float) -> DisplacementField:
    """Least-squares fit of a field by linear interpolation on a coarser grid.

    The coarser grid has the same axis directions. It reaches a voxel beyond the field, since ITK takes a field to be
    zero outside its grid. The fit is exact where displacements are linear in space.

    Args:
        field: 2-D or 3-D.
        spacing: mm; an axis with larger voxels keeps their size.
    """
    sizes = field.grid.spacing.clamp(min=spacing)
    shape = [size + 2 for size in field.grid.resized(sizes).shape]
    grid = field.grid.resized(sizes, shape)
    projections = [_projection(field.grid, grid, axis).to(field.vectors) for axis in range(grid.ndim)]
    vectors = field.vectors.new_empty((grid.ndim, *shape))
    for component, out in zip(field.vectors, vectors, strict=True):
        for axis, projection in enumerate(projections):
            component = torch.tensordot(projection, component, dims=([1], [axis])).movedim(0, axis)
        out.copy_(component)
    return DisplacementField(vectors, grid)


def downsampling_error(field: DisplacementField, coarse: DisplacementField) -> float:
    """Largest distance in voxels between the points to which two fields move the voxels of the first."""
    n = field.ndim
    largest = 0.0
    for rows in row_chunks(field.grid.shape):
        # Each chunk becomes a grid, since sampling on a grid is much faster than at points.
        affine = field.grid.affine.clone()
        affine[:n, n] += rows.start * affine[:n, 0]
        part = Grid((rows.stop - rows.start, *field.grid.shape[1:]), affine)
        difference = DisplacementField(coarse.sample(part).vectors - field.vectors[:, rows], part)
        largest = max(largest, float(difference.to_ddf().norm(dim=0).max()))
    return largest


def _projection(fine: Grid, coarse: Grid, axis: int) -> Tensor:
    """Least-squares projection ``(coarse, fine)`` along one axis, float64. The grid's projection is the product over
    axes.
    """
    to_index = torch.linalg.inv(coarse.affine) @ fine.affine
    index = to_index[axis, axis] * torch.arange(fine.shape[axis], dtype=torch.float64) + to_index[axis, -1]
    corners = torch.arange(coarse.shape[axis], dtype=torch.float64)
    weights = (1 - (index[:, None] - corners).abs()).clamp(min=0)
    bends = torch.diff(torch.eye(len(corners), dtype=torch.float64), n=2, dim=0)
    return torch.linalg.solve(weights.T @ weights + _SMOOTHNESS * bends.T @ bends, weights.T)
