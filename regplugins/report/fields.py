# SPDX-License-Identifier: Apache-2.0
"""The last two columns of the quality-control picture: the deformed grid and the Jacobian determinant."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize

from regplugins.report.canvas import Canvas
from regplugins.report.panels import Deformation, grid_lines

_GRID, _JACOBIAN = 5, 6
_FOLDED_COLOR = "#e000e0"
_LINES, _SHADES = 26, 24
_TICK_GAP = 6  # pixels between the numbers below a color bar
_VOLUME_RATIOS = (1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
# Without viridis' yellow end, which is lost on white paper.
_LENGTHS = LinearSegmentedColormap.from_list("lengths", colormaps["viridis"](np.linspace(0, 0.85, 256)), _SHADES)
_VOLUMES = colormaps["RdBu"].with_extremes(bad=_FOLDED_COLOR)


def draw_grids(canvas: Canvas, fields: Sequence[Deformation]) -> None:
    """The fixed image's grid, moved, colored by the length of the displacement, folded lines marked."""
    longest = max(1e-3, *(float(field.length.max()) for field in fields))
    planes = canvas.layout.planes
    step = max(max(plane.width, plane.height) for plane in planes) / _LINES
    for row, (plane, field) in enumerate(zip(planes, fields, strict=True)):
        segments, lengths, folded = grid_lines(field, plane, step)
        shades = np.minimum(_SHADES * lengths / longest, _SHADES - 1).astype(int)
        for shade in np.unique(shades):
            color = _LENGTHS(int(shade))
            canvas.lines(row, _GRID, segments[shades == shade], edgecolor=color, linewidth=0.75, capstyle="round")
        canvas.lines(row, _GRID, segments[folded], edgecolor=_FOLDED_COLOR, linewidth=1.5)
    ticks = [f"{float(f'{tick:.3g}'):g}" for tick in (0, longest / 2, longest)]  # 12300, not 1.23e+04
    _color_bar(canvas, _GRID, _LENGTHS, ticks, "displacement (mm)")


def draw_volumes(canvas: Canvas, fields: Sequence[Deformation]) -> None:
    """The Jacobian determinant, logarithmic about one, folded voxels in a color of their own."""
    changes = np.concatenate([np.abs(np.log(field.determinant[field.determinant > 0])) for field in fields])
    largest = math.exp(np.percentile(changes, 98)) if changes.size else 1.0
    limit = next((ratio for ratio in _VOLUME_RATIOS if ratio >= largest), _VOLUME_RATIOS[-1])
    for row, field in enumerate(fields):
        positive = np.ma.masked_where(~(field.determinant > 0), field.determinant)
        canvas.image(canvas.layout.panel(row, _JACOBIAN), positive, cmap=_VOLUMES, norm=LogNorm(1 / limit, limit))
    label = "area ratio (mm²/mm²)" if len(fields) == 1 else "volume ratio (mm³/mm³)"
    _color_bar(canvas, _JACOBIAN, _VOLUMES, [f"≤ {1 / limit:.3g}", "1", f"≥ {limit:.3g}"], label)


def draw_folding(canvas: Canvas, percent: float | None, fields: Sequence[Deformation]) -> None:
    """Heading of the Jacobian, with the folded share as the key to that color if there is any."""
    seen = any((~(field.determinant > 0)).any() for field in fields)
    share = "" if percent is None else "< 0.01 % " if 0 < percent < 0.01 else f"{percent:.2f} % "
    heading, detail, color = "Jacobian", "", "black"
    if seen or percent:
        detail, color = f"■ {share}folded", _FOLDED_COLOR
    elif percent == 0:
        heading, detail = "Jacobian: no folding", "on the registration grid"
    canvas.text(canvas.layout.heading(_JACOBIAN, 0), heading, ha="center", fontsize=11)
    canvas.text(canvas.layout.heading(_JACOBIAN, 1), detail, ha="center", fontsize=9.5, color=color)


def _color_bar(canvas: Canvas, column: int, colors: Colormap, ticks: Sequence[str], name: str) -> None:
    """A bar below a column, its ends named, and its middle where it has room."""
    x, y, width, height = canvas.layout.color_bar(column)
    canvas.image((x, y, width, height), np.linspace(0, 1, 256)[None], cmap=colors, norm=Normalize(0, 1))
    left, middle, right = (
        canvas.text((x + share * width, y - 0.3 * height), tick, ha=side, va="top", fontsize=9)
        for share, tick, side in zip((0, 0.5, 1), ticks, ("left", "center", "right"), strict=True)
    )
    room = middle.get_window_extent().padded(_TICK_GAP)
    if any(room.overlaps(end.get_window_extent()) for end in (left, right)):
        middle.remove()
    canvas.text((x + width / 2, y - 2.0 * height), name, ha="center", va="top", fontsize=9.5)
