# SPDX-License-Identifier: Apache-2.0
"""Where things stand in the quality-control picture, in inches: a row a plane, one scale of millimeters."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from regplugins.report.planes import Plane

_PANEL, _MAX_HEIGHT, _MIN_WIDTH, _MIN_HEIGHT = 1.9, 2.6, 1.6, 0.6
_LEFT, _MARGIN, _GAP, _ROW_GAP = 0.32, 0.1, 0.1, 0.1
_TITLE_LINE, _SUBTITLE_LINE, _HEADINGS, _FOOTER, _BAR = 0.27, 0.23, 0.46, 0.66, 0.1
# Of the bold 14 point title and the 11 point subtitle, on the safe side.
_TITLE_CHARACTERS, _SUBTITLE_CHARACTERS = 7.0, 11.0

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Layout:
    """The places of a picture's panels and of the text around them.

    Args:
        planes: one a row.
        columns: number of panels in a row.
        title: broken into lines that fit the width; may be empty.
        subtitle: the same.
        warnings: the same, each beginning a line.
    """

    planes: Sequence[Plane]
    columns: int
    title: str
    subtitle: str
    warnings: Sequence[str] = ()

    @property
    def scale(self) -> float:
        """Inches a millimeter, the same for all panels."""
        return min(_PANEL / max(p.width for p in self.planes), _MAX_HEIGHT / max(p.height for p in self.planes))

    @property
    def width(self) -> float:
        """Of the picture."""
        return _LEFT + self.columns * self._column + (self.columns - 1) * _GAP + _MARGIN

    @property
    def height(self) -> float:
        """Of the picture."""
        return self._top + sum(self._rows) + (len(self.planes) - 1) * _ROW_GAP + _FOOTER

    @property
    def title_lines(self) -> list[str]:
        """The title, line by line."""
        return textwrap.wrap(self.title, int((self.width - _LEFT) * _TITLE_CHARACTERS))

    @property
    def subtitle_lines(self) -> list[str]:
        """The subtitle, line by line."""
        return self._wrapped(self.subtitle)

    @property
    def warning_lines(self) -> list[str]:
        """The warnings, line by line."""
        return [line for message in self.warnings for line in self._wrapped(f"Warning: {message}")]

    def _wrapped(self, text: str) -> list[str]:
        return textwrap.wrap(text, int((self.width - _LEFT) * _SUBTITLE_CHARACTERS))

    @property
    def _column(self) -> float:
        return max(_MIN_WIDTH, max(plane.width for plane in self.planes) * self.scale)

    @property
    def _rows(self) -> list[float]:
        return [max(_MIN_HEIGHT, plane.height * self.scale) for plane in self.planes]

    @property
    def _top(self) -> float:
        titles = _TITLE_LINE * len(self.title_lines) + _SUBTITLE_LINE * len(self.subtitle_lines + self.warning_lines)
        return _MARGIN + titles + _HEADINGS

    @property
    def _foot(self) -> float:
        return self.height - _FOOTER + 0.1

    def place(self, x: float, y: float, width: float = 0.0, height: float = 0.0) -> Rectangle:
        """Inches from the top left corner, downwards, to matplotlib's fractions from the bottom left one."""
        return x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height

    def title_line(self, number: int) -> tuple[float, float]:
        """Top left corner of a line of the title."""
        return self.place(_LEFT, _MARGIN + number * _TITLE_LINE)[:2]

    def subtitle_line(self, number: int) -> tuple[float, float]:
        """Top left corner of a line of the subtitle, and after these of the warnings."""
        return self.place(_LEFT, _MARGIN + len(self.title_lines) * _TITLE_LINE + number * _SUBTITLE_LINE)[:2]

    def heading(self, column: int, line: int) -> tuple[float, float]:
        """Middle of the base line of the first or the second line above a column."""
        return self.place(_LEFT + column * (self._column + _GAP) + self._column / 2, self._top - 0.24 + 0.17 * line)[:2]

    def row_name(self, row: int) -> tuple[float, float]:
        """Middle of the name left of a row."""
        return self.place(_LEFT / 2, self._row_start(row) + self._rows[row] / 2)[:2]

    def panel(self, row: int, column: int) -> Rectangle:
        """A panel, in true proportions, in the middle of its cell."""
        plane = self.planes[row]
        width, height = plane.width * self.scale, plane.height * self.scale
        x = _LEFT + column * (self._column + _GAP) + (self._column - width) / 2
        return self.place(x, self._row_start(row) + (self._rows[row] - height) / 2, width, height)

    def color_bar(self, column: int) -> Rectangle:
        """A horizontal bar below a column."""
        x = _LEFT + column * (self._column + _GAP) + 0.1 * self._column
        return self.place(x, self._foot, 0.8 * self._column, _BAR)

    def legend(self, column: int) -> tuple[float, float]:
        """Top left corner of the text below a column."""
        return self.place(_LEFT + column * (self._column + _GAP), self._foot)[:2]

    def _row_start(self, row: int) -> float:
        return self._top + sum(self._rows[:row]) + row * _ROW_GAP
