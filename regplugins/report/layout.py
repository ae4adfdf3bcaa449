# SPDX-License-Identifier: Apache-2.0
"""Layout of the quality-control picture: a row of panels per plane, all at one scale, with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Rectangle

from regplugins.report.planes import Plane

COLUMNS = 7
_DPI = 150
# Inches: largest panel, smallest column and row, margins and gaps, color bar.
_PANEL_WIDTH, _PANEL_HEIGHT, _MIN_WIDTH, _MIN_HEIGHT = 1.9, 2.6, 1.6, 0.6
_LEFT, _MARGIN, _GAP, _HEADINGS, _FOOTER, _KEY_GAP, _BAR = 0.32, 0.1, 0.1, 0.46, 0.66, 0.1, 0.1
# Line height in inches, safe number of characters per inch, and text options.
_Style = tuple[float, float, dict[str, Any]]
_TITLE: _Style = (0.27, 7.0, {"fontsize": 14, "fontweight": "bold"})
_TEXT: _Style = (0.23, 11.0, {"fontsize": 11})
_WARNING: _Style = (0.23, 11.0, {"fontsize": 11, "color": "#b00020"})


@dataclass(frozen=True)
class Panel:
    """Axes in mm, across and down, that show a plane within a frame."""

    axes: Axes
    plane: Plane
    frame: Rectangle

    def image(self, values: np.ndarray, **options: Any) -> None:
        """Draw values ``(rows, columns)`` or ``(rows, columns, RGB)``, voxel by voxel."""
        self.axes.imshow(values, extent=self.plane.extent, aspect="auto", interpolation="nearest", **options)

    def lines(self, segments: np.ndarray, **options: Any) -> None:
        """Draw line segments ``(m, 2, 2)``, both ends as across, down in mm."""
        self.axes.add_collection(LineCollection(list(segments), **options), autolim=False).set_clip_path(self.frame)

    def dots(self, points: np.ndarray, color: str) -> None:
        """Draw points ``(m, 2)``, across and down in mm, as discs with a dark rim."""
        style: dict[str, Any] = {"markersize": 4, "markeredgecolor": "black", "markeredgewidth": 0.6}
        self.axes.plot(*points.T, "o", color=color, **style)[0].set_clip_path(self.frame)


@dataclass(frozen=True)
class Layout:
    """Figure with its panels, a list per plane, and their common scale in inches per mm."""

    figure: Figure
    panels: list[list[Panel]]
    scale: float

    @property
    def planes(self) -> list[Plane]:
        """The plane of each row."""
        return [row[0].plane for row in self.panels]

    def below(self, column: int) -> tuple[float, float]:
        """Top left corner of the space below a column, as fractions of the figure."""
        corner = self.panels[-1][column].axes.get_position()
        return corner.x0, corner.y0 - _KEY_GAP / self.figure.get_figheight()

    def color_bar(self, column: int) -> Axes:
        """Axes of a horizontal color bar below a column."""
        (x, y), width = self.below(column), self.panels[-1][column].axes.get_position().width
        height = _BAR / self.figure.get_figheight()
        axes = self.figure.add_axes((x + 0.1 * width, y - height, 0.8 * width, height))
        axes.set_axis_off()
        return axes


def create_layout(planes: Sequence[Plane], title: str, subtitle: str, warnings: Sequence[str] = ()) -> Layout:
    """Create a figure with a row of empty panels per plane, in true proportions, below the given texts."""
    widest, highest = max(plane.width for plane in planes), max(plane.height for plane in planes)
    scale = min(_PANEL_WIDTH / widest, _PANEL_HEIGHT / highest)
    column, rows = max(_MIN_WIDTH, widest * scale), [max(_MIN_HEIGHT, plane.height * scale) for plane in planes]
    width = _LEFT + COLUMNS * column + (COLUMNS - 1) * _GAP + _MARGIN
    texts = [(title, _TITLE), (subtitle, _TEXT), *((f"Warning: {warning}", _WARNING) for warning in warnings)]
    lines = [
        (line, line_height, options)
        for text, (line_height, characters, options) in texts
        for line in textwrap.wrap(text, int((width - _LEFT) * characters))
    ]
    top = _MARGIN + sum(line_height for _, line_height, _ in lines) + _HEADINGS
    height = top + sum(rows) + (len(planes) - 1) * _GAP + _FOOTER
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    y = height - _MARGIN
    for line, line_height, options in lines:
        # File names may hold a dollar sign, matplotlib's sign for formulas.
        figure.text(_LEFT / width, y / height, line, va="top", parse_math=False, **options)
        y -= line_height
    grid = GridSpec(len(planes), COLUMNS, figure, height_ratios=rows)
    grid.update(left=_LEFT / width, right=1 - _MARGIN / width, top=1 - top / height, bottom=_FOOTER / height)
    grid.update(wspace=_GAP / column, hspace=_GAP / mean(rows))
    panels = [
        [
            _panel(figure.add_subplot(grid[row, k], xticks=[], yticks=[], frame_on=False), plane, column / scale, size)
            for k in range(COLUMNS)
        ]
        for row, (plane, size) in enumerate(zip(planes, (row / scale for row in rows), strict=True))
    ]
    return Layout(figure, panels, scale)


def _panel(axes: Axes, plane: Plane, width: float, height: float) -> Panel:
    """Panel with its plane in the middle of axes of ``width`` and ``height`` mm."""
    left, right, bottom, top = plane.extent
    x, y = (left + right - width) / 2, (top + bottom - height) / 2
    axes.set(xlim=(x, x + width), ylim=(y + height, y))
    frame = Rectangle((left, top), plane.width, plane.height, fill=False, linewidth=0.5, edgecolor="0.6", zorder=3)
    axes.add_patch(frame).set_clip_on(False)
    return Panel(axes, plane, frame)
