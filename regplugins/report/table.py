# SPDX-License-Identifier: Apache-2.0
"""Figures of many pairs: a row a pair, and their mean and spread."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from regplugins.io import atomic
from regplugins.report.summary import summary_row

# Beginnings of text that a spreadsheet takes for a formula, and the apostrophe that tells it not to.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | int]]:
    """Count, mean and standard deviation (n - 1) of every column, over the rows in which it is a finite number."""
    result: dict[str, dict[str, float | int]] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if isinstance(row.get(name), int | float) and math.isfinite(row[name])]
        if values:
            result[name] = {"n": len(values), "mean": fmean(values), "sd": stdev(values) if len(values) > 1 else 0.0}
    return result


def report_row(report: Mapping[str, Any], by_label: bool = False) -> dict[str, Any]:
    """One report as a row of a table.

    Args:
        report: of ``pair_report``, or a ``report.json``.
        by_label: with a column for each label's Dice, HD95 and ASD.

    Returns:
        The columns of ``summary_row``; seconds by stage; of a pair that was registered both ways too, the figures of
        the other way.
    """
    seconds = report["seconds"]
    row: dict[str, Any] = summary_row(report)
    stages = ["init", "network", *(stage for stage in ("refine_rigid",) if stage in seconds), "warp"]
    row |= {f"seconds_{stage}": seconds.get(stage) for stage in stages}
    row |= _label_columns(report) if by_label else {}
    if "backward" in report:
        way = report["backward"]
        columns = summary_row(way) | (_label_columns(way) if by_label else {})
        row |= {f"backward_{name}": value for name, value in columns.items()}
    return row


def _label_columns(report: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{name}_{label}_{when}": score
        for when, labels in report.get("overlap", {}).items()
        for label, scores in labels.items()
        for name, score in scores.items()
    }


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as CSV; what is None or not finite is left empty.

    Text that a spreadsheet would take for a formula begins with an apostrophe, which ``read_table`` takes away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the rows of ``write_table``.

    Raises:
        ValueError: if it is no CSV file, or rows are not of one length.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a table ({error})") from error
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path}: expected rows of one length")
    return [{key: cell.removeprefix("'") for key, cell in row.items()} for row in rows]


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
