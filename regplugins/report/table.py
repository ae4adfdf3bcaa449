# SPDX-License-Identifier: Apache-2.0
"""Tables of the metrics of many pairs, their statistics, and these as lines for a terminal."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from regplugins.io import atomic
from regplugins.report.summary import COMPARED, column_unit, summary_row

# First characters of formulas in spreadsheets, and the apostrophe that marks text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
_AFTER = {
    "rotation": ("affine_rotation_degrees", "degrees"),
    "translation": ("affine_translation_mm", "mm"),
    "folding": ("folding_percent", "%"),
    "time": ("seconds", "s"),
}


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | int]]:
    """Count, mean and standard deviation (n - 1) of the finite numbers of each column."""
    result: dict[str, dict[str, float | int]] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if isinstance(row.get(name), int | float) and math.isfinite(row[name])]
        if values:
            result[name] = {"n": len(values), "mean": fmean(values), "sd": stdev(values) if len(values) > 1 else 0.0}
    return result


def report_row(report: Mapping[str, Any], by_label: bool = False) -> dict[str, Any]:
    """One report as a row of a table: ``summary_row``, seconds by stage, and a backward direction's metrics.

    Args:
        report: of ``pair_report``, or a ``report.json``.
        by_label: add columns for each label's Dice, HD95 and ASD.
    """
    seconds = report["seconds"]
    row: dict[str, Any] = summary_row(report)
    stages = ["init", "network", *(stage for stage in ("refine_rigid",) if stage in seconds), "warp"]
    row |= {f"seconds_{stage}": seconds.get(stage) for stage in stages}
    row |= _label_columns(report) if by_label else {}
    if "backward" in report:
        backward = report["backward"]
        columns = summary_row(backward) | (_label_columns(backward) if by_label else {})
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
    """Write rows as CSV, with empty cells for values that are None or not finite.

    Text that looks like a formula gets an apostrophe in front, which ``read_table`` removes.
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
        ValueError: if the file is not CSV, or rows differ in length.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a table ({error})") from error
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path}: expected rows of equal length")
    return [{key: cell.removeprefix("'") for key, cell in row.items()} for row in rows]


def remove_pair_table(folder: Path) -> None:
    """Remove the table of a single pair, and the page about it, from a folder; those of a datalist are kept."""
    table = folder / "summary.csv"
    try:
        names = [row.get("name") for row in read_table(table)]
    except (FileNotFoundError, ValueError):
        return
    if names == ["pair"]:
        table.unlink()
        (folder / "report.html").unlink(missing_ok=True)


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


def metrics_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Main metrics of a table's rows before and after registration, one per line in equal columns; "-" if missing.

    They are mean and standard deviation of several pairs. A metric that some pairs lack is followed by the number of
    pairs that have it. The text is empty if no row has metrics.
    """
    statistics = summarize(rows)
    done = sum(row.get("status", "done") == "done" for row in rows)
    lines = []
    for name, column in COMPARED.items():
        before, after = (_metric_cell(statistics, f"{column}_{when}", done) for when in ("before", "after"))
        if before or after:
            lines.append((name, before or "-", after or "-", column_unit(column)))
    for name, (column, unit) in _AFTER.items():
        if column in statistics:
            lines.append((name, "", _metric_cell(statistics, column, done), unit))
    if not lines:
        return ""
    lines.insert(0, ("", "before", "after", ""))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {before:>{widths[1]}}  {after:>{widths[2]}}  {unit}".rstrip()
        for name, before, after, unit in lines
    )


def _metric_cell(statistics: Mapping[str, Mapping[str, float]], column: str, done: int) -> str:
    if column not in statistics:
        return ""
    metric = statistics[column]
    mean = f"{metric['mean']:.3g}" if abs(metric["mean"]) >= 100 else f"{metric['mean']:.3f}"
    text = mean if metric["n"] == 1 else f"{mean} ± {metric['sd']:.3f}"
    return text if metric["n"] == done else f"{text} (n = {metric['n']})"
