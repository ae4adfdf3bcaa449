# SPDX-License-Identifier: Apache-2.0
"""Layout of the quality-control picture: a row of panels per plane, all at one scale, with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D, Transform

from regplugins.report.planes import Plane

COLUMNS = 7
_DPI = 150
# Inches: largest panel, smallest column and row, margins and gaps, color bar.
_PANEL_WIDTH, _PANEL_HEIGHT, _MIN_WIDTH, _MIN_HEIGHT = 1.9, 2.6, 1.6, 0.6
_LEFT, _MARGIN, _GAP, _HEADINGS, _FOOTER, KEY_GAP, _BAR = 0.32, 0.1, 0.1, 0.46, 0.66, 0.1, 0.1
# Line height in inches, safe number of characters per inch, and text options.
_Style = tuple[float, float, dict[str, Any]]
_TITLE: _Style = (0.27, 7.0, {"fontsize": 14, "fontweight": "bold"})
_TEXT: _Style = (0.23, 11.0, {"fontsize": 11})
_WARNING: _Style = (0.23, 11.0, {"fontsize": 11, "color": "#b00020"})


class Box(NamedTuple):
    """Part of the picture in inches; (0, 0) is the bottom left corner of the picture."""

    left: float
    bottom: float
    width: float
    height: float


@dataclass(frozen=True)
class Panel:
    """Part of the picture that shows a plane within a frame.

    Args:
        axes: of the whole picture, in inches.
        box: of the panel, with the plane in its middle.
        plane: to show.
        transform: from mm, across and down in the plane, to the picture.
        frame: edge of the plane.
    """

    axes: Axes
    box: Box
    plane: Plane
    transform: Transform
    frame: Rectangle

    def image(self, colors: np.ndarray) -> None:
        """Draw colors ``(rows, columns, RGBA)`` in bytes, which matplotlib draws fastest, voxel by voxel."""
        style: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest", "transform": self.transform}
        self.axes.imshow(colors, extent=self.plane.extent, **style)

    def lines(self, segments: np.ndarray, **options: Any) -> None:
        """Draw line segments ``(m, 2, 2)``, both ends as across, down in mm."""
        lines = LineCollection(list(segments), transform=self.transform, **options)
        self.axes.add_collection(lines, autolim=False).set_clip_path(self.frame)

    def dots(self, points: np.ndarray, color: str) -> None:
        """Draw points ``(m, 2)``, across and down in mm, as discs with a dark rim."""
        style: dict[str, Any] = {"markersize": 4, "markeredgecolor": "black", "markeredgewidth": 0.6}
        (dots,) = self.axes.plot(*points.T, "o", color=color, transform=self.transform, **style)
        dots.set_clip_path(self.frame)


@dataclass(frozen=True)
class Layout:
    """Figure with its panels, a list per plane, and their common scale in inches per mm.

    All panels are drawn in the same axes, in inches. Axes for each panel would take longer to draw than its content.
    """

    figure: Figure
    canvas: FigureCanvasAgg
    axes: Axes
    panels: list[list[Panel]]
    scale: float

    @property
    def planes(self) -> list[Plane]:
        """The plane of each row."""
        return [row[0].plane for row in self.panels]

    def color_bar(self, column: int) -> Box:
        """Place of a horizontal color bar below a column."""
        left, bottom, width, _ = self.panels[-1][column].box
        return Box(left + 0.1 * width, bottom - KEY_GAP - _BAR, 0.8 * width, _BAR)


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
    canvas = FigureCanvasAgg(figure)  # keeps one renderer, to measure texts and to draw
    y = height - _MARGIN
    for line, line_height, options in lines:
        # File names may hold a dollar sign, matplotlib's sign for formulas.
        figure.text(_LEFT / width, y / height, line, va="top", parse_math=False, **options)
        y -= line_height
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), autoscale_on=False)
    axes.set_axis_off()
    panels, y = [], height - top
    for plane, row in zip(planes, rows, strict=True):
        y -= row
        boxes = [Box(_LEFT + k * (column + _GAP), y, column, row) for k in range(COLUMNS)]
        panels.append([_panel(axes, box, plane, scale) for box in boxes])
        y -= _GAP
    return Layout(figure, canvas, axes, panels, scale)


def _panel(axes: Axes, box: Box, plane: Plane, scale: float) -> Panel:
    """Panel with its plane in the middle of a box."""
    left, right, bottom, top = plane.extent
    to_inches = Affine2D().translate(-(left + right) / 2, -(top + bottom) / 2).scale(scale, -scale)
    to_inches.translate(box.left + box.width / 2, box.bottom + box.height / 2)
    transform = to_inches + axes.transData
    style: dict[str, Any] = {"fill": False, "linewidth": 0.5, "edgecolor": "0.6", "zorder": 3}
    frame = Rectangle((left, top), plane.width, plane.height, transform=transform, **style)
    axes.add_artist(frame)
    return Panel(axes, box, plane, transform, frame)
