# SPDX-License-Identifier: Apache-2.0
"""Figures of registered pairs as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regplugins.report.table import summarize

# Name, columns of a table without "_before" and "_after", unit.
_COMPARED = (
    ("NCC", "ncc", ""),
    ("mutual information", "mutual_information", "nat"),
    ("Dice", "dice_mean", ""),
    ("HD95", "hd95_mean", "mm"),
    ("TRE, mean", "tre_mean", "mm"),
    ("TRE, maximum", "tre_max", "mm"),
    ("endpoint error", "endpoint_error_mean", "mm"),
)
_AFTER = (
    ("rotation", "affine_rotation_degrees", "degrees"),
    ("translation", "affine_translation_mm", "mm"),
    ("folding", "folding_percent", "%"),
    ("time", "seconds", "s"),
)


def figures_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The main figures before and after registration, a line each; of several pairs mean and standard deviation.

    A figure that some pairs lack is followed by the number of pairs that have it.

    Args:
        rows: of a table of pairs; those without figures are left out.

    Returns:
        Lines of equal columns, "-" where a figure is missing; empty if no row has figures.
    """
    statistics = summarize(rows)
    done = sum(row.get("status", "done") == "done" for row in rows)
    lines = []
    for name, column, unit in _COMPARED:
        before, after = (_cell(statistics, f"{column}_{when}", done) for when in ("before", "after"))
        if before or after:
            lines.append((name, before or "-", after or "-", unit))
    lines += [(name, "", _cell(statistics, key, done), unit) for name, key, unit in _AFTER if key in statistics]
    if not lines:
        return ""
    lines.insert(0, ("", "before", "after", ""))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {before:>{widths[1]}}  {after:>{widths[2]}}  {unit}".rstrip()
        for name, before, after, unit in lines
    )


def _cell(statistics: Mapping[str, Mapping[str, float]], column: str, done: int) -> str:
    if column not in statistics:
        return ""
    figure = statistics[column]
    mean = f"{figure['mean']:.3g}" if abs(figure["mean"]) >= 100 else f"{figure['mean']:.3f}"
    text = mean if figure["n"] == 1 else f"{mean} ± {figure['sd']:.3f}"
    return text if figure["n"] == done else f"{text} (n = {figure['n']})"
