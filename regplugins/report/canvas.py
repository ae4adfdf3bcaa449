# SPDX-License-Identifier: Apache-2.0
"""Canvas of the quality-control picture: one set of axes, in which a panel is a rectangle.

Axes of their own for each of 21 panels would take half of the picture's time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, Transform

from regplugins.report.layout import Layout

_DPI = 150


class Canvas:
    """An empty picture with the frames of its panels.

    Args:
        layout: the places of its parts.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.figure = Figure(figsize=(layout.width, layout.height), dpi=_DPI, facecolor="white")
        self._axes = self.figure.add_axes((0, 0, 1, 1), autoscale_on=False)
        self._axes.set_axis_off()
        for row in range(len(layout.planes)):
            for column in range(layout.columns):
                x, y, width, height = layout.panel(row, column)
                frame = Rectangle((x, y), width, height, fill=False, linewidth=0.5, edgecolor="0.6", zorder=3)
                self._axes.add_patch(frame)

    def image(self, place: tuple[float, float, float, float], values: np.ndarray, **options: Any) -> None:
        """Draw values ``(rows, columns)`` or ``(rows, columns, RGB)`` into a rectangle, voxel by voxel."""
        x, y, width, height = place
        extent = (x, x + width, y, y + height)
        self._axes.imshow(values, extent=extent, aspect="auto", interpolation="nearest", **options)

    def lines(self, row: int, column: int, segments: np.ndarray, **options: Any) -> None:
        """Draw line segments ``(m, 2, 2)``, both ends as across, down in mm, into a panel and cut them off there."""
        codes = np.tile([Path.MOVETO, Path.LINETO], len(segments)).astype(Path.code_type)
        path = Path(segments.reshape(-1, 2), codes)
        self._draw(PathPatch(path, fill=False, transform=self._to_panel(row, column), **options), row, column)

    def dots(self, row: int, column: int, points: np.ndarray, color: str) -> None:
        """Draw points ``(m, 2)``, across and down in mm, into a panel as discs with a dark rim."""
        (dots,) = self._axes.plot(*points.T, "o", color=color, transform=self._to_panel(row, column))
        dots.set(markersize=4, markeredgecolor="black", markeredgewidth=0.6)
        self._draw(dots, row, column)

    def text(self, place: tuple[float, float], text: str, **options: Any) -> Any:
        """Write a text; file names may hold a dollar sign, matplotlib's sign for formulas."""
        return self.figure.text(*place, text, parse_math=False, **options)

    def _to_panel(self, row: int, column: int) -> Transform:
        """Map across, down in mm of a panel to the screen."""
        left, right, bottom, top = self.layout.planes[row].extent
        x, y, width, height = self.layout.panel(row, column)
        panel = Affine2D().translate(-left, -bottom).scale(width / (right - left), height / (top - bottom))
        return panel.translate(x, y) + self._axes.transData

    def _draw(self, artist: Any, row: int, column: int) -> None:
        x, y, width, height = self.layout.panel(row, column)
        if artist.axes is None:
            self._axes.add_artist(artist)
        artist.set_clip_path(Rectangle((x, y), width, height, transform=self._axes.transData))
