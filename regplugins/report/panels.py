# SPDX-License-Identifier: Apache-2.0
"""Content of the panels of the quality-control picture: gray values, outlines, deformed grid, Jacobian determinant.

All are computed on the displayed slice alone, in mm of the picture (see :class:`regplugins.report.planes.Plane`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from torch import Tensor

from regplugins.report.layout import Layout
from regplugins.report.planes import Plane
from regplugins.spatial.ddf import jacobian_determinant
from regplugins.spatial.grid import Grid
from regplugins.spatial.transforms import DisplacementField

_GRID, _JACOBIAN = 5, 6
_FOLDED_COLOR = "#e000e0"
_LINES = 26
_TICK_GAP = 6  # pixels between the numbers below a color bar
_VOLUME_RATIOS = (1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
# Without viridis' yellow end, which is invisible on white paper.
_LENGTHS = LinearSegmentedColormap.from_list("lengths", colormaps["viridis"](np.linspace(0, 0.85, 256)))
_VOLUMES = colormaps["RdBu"].with_extremes(bad=_FOLDED_COLOR)


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
    if plane.position is not None:
        # Central differences need the neighboring slices only.
        axis, index = plane.position
        start = max(index - 1, 0)
        slab = slab.narrow(1 + axis, start, min(index + 2, grid.shape[axis]) - start)
    slab = slab.cpu()
    ddf = DisplacementField(slab, Grid(tuple(slab.shape[1:]), grid.affine)).to_ddf()
    determinant = jacobian_determinant(ddf[None])
    if plane.position is not None:
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


def draw_grids(layout: Layout, fields: Sequence[Deformation]) -> None:
    """Draw the deformed grid, colored by displacement, with folded lines marked."""
    longest = max(1e-3, *(float(field.length.max()) for field in fields))
    step = max(max(plane.width, plane.height) for plane in layout.planes) / _LINES
    for panels, field in zip(layout.panels, fields, strict=True):
        panel = panels[_GRID]
        segments, lengths, folded = grid_lines(field, panel.plane, step)
        colors = {"array": lengths, "cmap": _LENGTHS, "norm": Normalize(0, longest)}
        panel.lines(segments, linewidth=0.75, capstyle="round", **colors)
        panel.lines(segments[folded], color=_FOLDED_COLOR, linewidth=1.5)
    ticks = [f"{float(f'{tick:.3g}'):g}" for tick in (0, longest / 2, longest)]  # 12300, not 1.23e+04
    _color_bar(layout, _GRID, _LENGTHS, ticks, "displacement (mm)")


def draw_volumes(layout: Layout, fields: Sequence[Deformation]) -> None:
    """Draw the Jacobian determinant on a logarithmic scale about one, with folded voxels marked."""
    changes = np.concatenate([np.abs(np.log(field.determinant[field.determinant > 0])) for field in fields])
    largest = math.exp(np.percentile(changes, 98)) if changes.size else 1.0
    limit = next((ratio for ratio in _VOLUME_RATIOS if ratio >= largest), _VOLUME_RATIOS[-1])
    for panels, field in zip(layout.panels, fields, strict=True):
        positive = np.ma.masked_where(~(field.determinant > 0), field.determinant)
        panels[_JACOBIAN].image(_VOLUMES(LogNorm(1 / limit, limit)(positive), bytes=True))
    label = "area ratio (mm²/mm²)" if len(fields) == 1 else "volume ratio (mm³/mm³)"
    _color_bar(layout, _JACOBIAN, _VOLUMES, [f"≤ {1 / limit:.3g}", "1", f"≥ {limit:.3g}"], label)


def folding_heading(percent: float | None, fields: Sequence[Deformation]) -> tuple[str, str, str]:
    """Two lines above the Jacobian, with the folded percentage as the key to its color, and the second one's color."""
    share = "" if percent is None else "< 0.01 % " if 0 < percent < 0.01 else f"{percent:.2f} % "
    if percent or any((~(field.determinant > 0)).any() for field in fields):
        return "Jacobian", f"■ {share}folded", _FOLDED_COLOR
    if percent == 0:
        return "Jacobian: no folding", "on the registration grid", "black"
    return "Jacobian", "", "black"


def _color_bar(layout: Layout, column: int, colors: Colormap, ticks: Sequence[str], name: str) -> None:
    """Draw a color bar with numbers at its ends and, if there is room, at its middle."""
    axes, (x, y, width, height) = layout.axes, layout.color_bar(column)
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=colors, aspect="auto", extent=(x, x + width, y, y + height))
    left, middle, right = (
        axes.text(x + share * width, y - 0.3 * height, tick, ha=side, va="top", fontsize=9)
        for share, tick, side in zip((0, 0.5, 1), ticks, ("left", "center", "right"), strict=True)
    )
    room = middle.get_window_extent().padded(_TICK_GAP)
    if any(room.overlaps(end.get_window_extent()) for end in (left, right)):
        middle.remove()
    axes.text(x + width / 2, y - 2 * height, name, ha="center", va="top", fontsize=9.5)
