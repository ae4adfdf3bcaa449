# SPDX-License-Identifier: Apache-2.0
"""Handlers that write a table of what an evaluator did."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch.distributed as dist
from ignite.engine import Engine, Events

from regplugins.metrics import classification_scores
from regplugins.report.summary import write_json
from regplugins.report.table import report_row, summarize, write_table


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


class ClassTable(Table):
    """Table of classified images, and how many are right.

    Reads, of decollated images, ``pred`` ``(classes,)``, probabilities; ``name``; and, where it is known, ``true``.

    Args:
        path: CSV file.
        classes: in the order of the probabilities.
        summary: JSON file for the scores, where the true classes are known; not written if it is not given.
        positive: class that sensitivity is of.
    """

    def __init__(
        self, path: str | Path, classes: Sequence[str], summary: str | Path | None = None, positive: str = "CT"
    ) -> None:
        super().__init__(path, summary)
        self.classes = list(classes)
        self.positive = positive

    def collect(self, engine: Engine) -> None:
        """Keep what was found of the images just classified."""
        for given, found in zip(engine.state.batch, engine.state.output, strict=True):
            number = int(found["pred"].argmax())
            row = {"name": given["name"], "found": self.classes[number], "probability": float(found["pred"][number])}
            self.rows.append(row | {key: given[key] for key in ("true",) if key in given})

    def summarize(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        true, found = ([row[key] for row in rows] for key in ("true", "found"))
        return classification_scores(true, found, self.positive)
