# SPDX-License-Identifier: Apache-2.0
"""Last two columns of the quality-control picture: the deformed grid and the Jacobian determinant."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize

from regplugins.report.layout import Layout
from regplugins.report.panels import Deformation, grid_lines

_GRID, _JACOBIAN = 5, 6
_FOLDED_COLOR = "#e000e0"
_LINES = 26
_TICK_GAP = 6  # pixels between the numbers below a color bar
_VOLUME_RATIOS = (1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
# Without viridis' yellow end, which is invisible on white paper.
_LENGTHS = LinearSegmentedColormap.from_list("lengths", colormaps["viridis"](np.linspace(0, 0.85, 256)))
_VOLUMES = colormaps["RdBu"].with_extremes(bad=_FOLDED_COLOR)


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
        panels[_JACOBIAN].image(positive, cmap=_VOLUMES, norm=LogNorm(1 / limit, limit))
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
    axes = layout.color_bar(column)
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=colors, aspect="auto")
    left, middle, right = (
        axes.text(share, -0.3, tick, ha=side, va="top", fontsize=9, transform=axes.transAxes)
        for share, tick, side in zip((0, 0.5, 1), ticks, ("left", "center", "right"), strict=True)
    )
    room = middle.get_window_extent().padded(_TICK_GAP)
    if any(room.overlaps(end.get_window_extent()) for end in (left, right)):
        middle.remove()
    axes.text(0.5, -2.0, name, ha="center", va="top", fontsize=9.5, transform=axes.transAxes)
