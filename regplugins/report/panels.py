# SPDX-License-Identifier: Apache-2.0
"""Content of the panels of the quality-control picture: gray values, outlines, grid lines, Jacobian determinants.

All are computed on the displayed slice alone, in mm of the picture (see :class:`regplugins.report.planes.Plane`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regplugins.report.planes import Plane
from regplugins.spatial.ddf import jacobian_determinant
from regplugins.spatial.grid import Grid
from regplugins.spatial.transforms import DisplacementField


def gray(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Map the values of a window to [0, 1]; values that are not a number become 0."""
    low, high = limits
    return np.nan_to_num(np.clip((values - low) / (high - low), 0, 1))


def checkerboard(first: np.ndarray, second: np.ndarray, plane: Plane, tile: float) -> np.ndarray:
    """Alternate squares of two pictures ``(rows, columns)`` or ``(rows, columns, RGB)``; ``first`` is at the top left.

    The edge of the squares, ``tile`` in mm, is rounded to whole voxels.
    """
    rows, columns = np.indices(first.shape[:2])
    down, across = (max(1, round(tile / edge)) for edge in plane.spacing)
    squares = (rows // down + columns // across) % 2 == 0
    return np.where(squares.reshape(*squares.shape, *[1] * (first.ndim - 2)), first, second)


def outline(labels: np.ndarray, plane: Plane) -> np.ndarray:
    """Edges between voxels of different labels ``(rows, columns)``: ``(m, 2, 2)`` ends as across, down in mm."""
    down, across = plane.spacing
    row, column = np.nonzero(labels[1:] != labels[:-1])
    horizontal = np.stack([column - 0.5, row + 0.5, column + 0.5, row + 0.5], axis=1)
    row, column = np.nonzero(labels[:, 1:] != labels[:, :-1])
    vertical = np.stack([column + 0.5, row - 0.5, column + 0.5, row + 0.5], axis=1)
    return np.concatenate([horizontal, vertical]).reshape(-1, 2, 2) * (across, down)


@dataclass(frozen=True)
class Deformation:
    """A displacement field on a plane.

    Args:
        across: in-plane displacement in mm toward the right of the picture, ``(rows, columns)``.
        down: the same toward its bottom.
        length: of the whole displacement vector, in mm.
        determinant: Jacobian determinant of ``x + u(x)``.
    """

    across: np.ndarray
    down: np.ndarray
    length: np.ndarray
    determinant: np.ndarray


def deformation(displacement: Tensor, grid: Grid, plane: Plane) -> Deformation:
    """Slice of a displacement field ``(n, *spatial)``, RAS+ mm on ``grid``."""
    slab = displacement.detach()
    if plane.cut is not None:
        # Central differences need the neighboring slices only.
        axis, index = plane.cut
        start = max(index - 1, 0)
        slab = slab.narrow(1 + axis, start, min(index + 2, grid.shape[axis]) - start)
    slab = slab.cpu()
    ddf = DisplacementField(slab, Grid(tuple(slab.shape[1:]), grid.affine)).to_ddf()
    determinant = jacobian_determinant(ddf[None])
    if plane.cut is not None:
        slab, ddf, determinant = (part.select(1 + axis, index - start) for part in (slab, ddf, determinant))
    down, across = (
        plane.turn(ddf[axis, None].numpy())[0] * (-edge if flipped else edge)
        for axis, flipped, edge in zip(plane.axes, plane.flipped, plane.spacing, strict=True)
    )
    length = torch.linalg.vector_norm(slab.float(), dim=0, keepdim=True)
    return Deformation(across, down, plane.turn(length.numpy())[0], plane.turn(determinant.numpy())[0])


def grid_lines(field: Deformation, plane: Plane, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deformed lines of voxels; undeformed ones are ``step`` mm apart, rounded to whole voxels.

    Returns:
        ``(m, 2, 2)`` line segments, both ends as across, down in mm; displacement in mm at the middle of each; and True
        if the deformation folds at one of its ends.
    """
    rows, columns = np.indices(plane.size)
    points = np.stack([columns * plane.spacing[1] + field.across, rows * plane.spacing[0] + field.down], axis=-1)
    unfolded = field.determinant > 0
    segments, lengths, folded = [], [], []
    for axis, edge in enumerate(plane.spacing):
        every = max(1, round(step / edge))
        size = plane.size[axis]
        drawn = slice((size - 1) % every // 2, None, every)
        line, length, whole = (np.moveaxis(part, axis, 0)[drawn] for part in (points, field.length, unfolded))
        segments.append(np.stack([line[:, :-1], line[:, 1:]], axis=2).reshape(-1, 2, 2))
        lengths.append((length[:, :-1] + length[:, 1:]).ravel() / 2)
        folded.append(~(whole[:, :-1] & whole[:, 1:]).ravel())
    return np.concatenate(segments), np.concatenate(lengths), np.concatenate(folded)
