# SPDX-License-Identifier: Apache-2.0
"""Figures of many pairs: a row a pair, and their mean and spread."""

from __future__ import annotations

import csv
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch.distributed as dist
from ignite.engine import Engine, Events

from regplugins.io import atomic
from regplugins.report.summary import summary_row, write_json

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


class Table(ABC):
    """Handler of an evaluator: writes a CSV with a row for each of its items when all are done.

    Of several processes, each of which takes an item in turn (MONAI's ``DistributedSampler`` without ``shuffle``), the
    first writes the rows of all, in the order of the items.

    Args:
        path: CSV file.
        summary: JSON file for what the rows say together; not written if it is not given.
    """

    def __init__(self, path: str | Path, summary: str | Path | None = None) -> None:
        self.path = Path(path)
        self.summary = None if summary is None else Path(summary)
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def start(self) -> None:
        """Forget earlier rows, and remove their tables: those of a run that fails would be taken for its own."""
        self.rows.clear()
        for path in (self.path, self.summary):
            if path is not None:
                path.unlink(missing_ok=True)

    @abstractmethod
    def collect(self, engine: Engine) -> None:
        """Add the rows of what the evaluator has just done."""

    @abstractmethod
    def summarize(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """What ``summary`` is to say of all rows."""

    def write(self) -> None:
        """Write the table; what was not measured or is not finite is left empty."""
        rows = self._of_all_processes()
        if rows is None:
            return
        write_table(rows, self.path)
        if self.summary is not None:
            write_json(self.summarize(rows), self.summary)

    def _of_all_processes(self) -> list[dict[str, Any]] | None:
        """None but in the process that writes."""
        if not (dist.is_available() and dist.is_initialized()):
            return self.rows
        parts: list[list[dict[str, Any]]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, self.rows)
        if dist.get_rank() != 0:
            return None
        return [row for turn in zip_longest(*parts) for row in turn if row is not None]


class SummaryTable(Table):
    """Table of registered pairs, and count, mean and standard deviation of each column.

    Args:
        path: CSV file.
        summary: JSON file for the statistics; not written if it is not given.
        by_label: with a column for each label's Dice, HD95 and ASD.
    """

    def __init__(self, path: str | Path, summary: str | Path | None = None, by_label: bool = False) -> None:
        super().__init__(path, summary)
        self.by_label = by_label

    def summarize(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | int]]:
        return summarize(rows)

    def collect(self, engine: Engine) -> None:
        """Keep the figures of the pair just registered."""
        pair = {**engine.state.batch, **engine.state.output}
        seconds = {**pair["seconds"], "total": sum(pair["seconds"].values())}
        report = {"name": pair.get("name", "pair"), **pair["measures"], "seconds": seconds}
        self.rows.append(report_row(report, self.by_label))


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
    stages = ["init", "network", *(stage for stage in ("polish",) if stage in seconds), "warp"]
    row |= {f"seconds_{stage}": seconds.get(stage) for stage in stages}
    row |= _label_columns(report) if by_label else {}
    if "reverse" in report:
        way = report["reverse"]
        columns = summary_row(way) | (_label_columns(way) if by_label else {})
        row |= {f"reverse_{name}": value for name, value in columns.items()}
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
