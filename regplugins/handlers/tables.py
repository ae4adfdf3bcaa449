# SPDX-License-Identifier: Apache-2.0
"""Handlers that write a table of an evaluator's results."""

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
    """Evaluator handler that writes a CSV file with a row per item.

    The first of several processes writes the rows of all, in the order of the items, if MONAI's ``DistributedSampler``
    distributed them without ``shuffle``.

    Args:
        path: CSV file.
        summary: JSON file for statistics of the rows; None: not written.
    """

    def __init__(self, path: str | Path, summary: str | Path | None = None) -> None:
        self.path = Path(path)
        self.summary = None if summary is None else Path(summary)
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def start(self) -> None:
        """Clear the rows, and remove earlier files, so that a failed run leaves none."""
        self.rows.clear()
        for path in (self.path, self.summary):
            if path is not None:
                path.unlink(missing_ok=True)

    @abstractmethod
    def collect(self, engine: Engine) -> None:
        """Add the rows of an iteration."""

    def summarize(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Content of ``summary``: count, mean and standard deviation of each column."""
        return summarize(rows)

    def write(self) -> None:
        """Write the table of all processes, with empty cells for values that are missing or not finite."""
        rows = self.rows
        if dist.is_available() and dist.is_initialized():
            parts: list[list[dict[str, Any]]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(parts, rows)
            if dist.get_rank() != 0:
                return
            rows = [row for round_ in zip_longest(*parts) for row in round_ if row is not None]
        write_table(rows, self.path)
        if self.summary is not None:
            write_json(self.summarize(rows), self.summary)


class SummaryTable(Table):
    """Table of registered pairs, with count, mean and standard deviation of each column as ``summary``.

    Args:
        path, summary: of ``Table``.
        by_label: add columns for each label's Dice, HD95 and ASD.
    """

    def __init__(self, path: str | Path, summary: str | Path | None = None, by_label: bool = False) -> None:
        super().__init__(path, summary)
        self.by_label = by_label

    def collect(self, engine: Engine) -> None:
        """Add the row of a registered pair."""
        pair = {**engine.state.batch, **engine.state.output}
        seconds = {**pair["seconds"], "total": sum(pair["seconds"].values())}
        report = {"name": pair.get("name", "pair"), **pair["metrics"], "seconds": seconds}
        self.rows.append(report_row(report, self.by_label))


class ClassTable(Table):
    """Table of classified images, with classification scores as ``summary``.

    Reads decollated ``pred`` ``(classes,)``, probabilities, ``name`` and, if known, ``true``.

    Args:
        path, summary: of ``Table``; a summary needs the true classes.
        classes: in the order of the probabilities.
        positive: class of the sensitivity.
    """

    def __init__(
        self, path: str | Path, classes: Sequence[str], summary: str | Path | None = None, positive: str = "CT"
    ) -> None:
        super().__init__(path, summary)
        self.classes = list(classes)
        self.positive = positive

    def collect(self, engine: Engine) -> None:
        """Add the rows of a batch of classified images."""
        for image, output in zip(engine.state.batch, engine.state.output, strict=True):
            number = int(output["pred"].argmax())
            row = {"name": image["name"], "found": self.classes[number], "probability": float(output["pred"][number])}
            self.rows.append(row | {key: image[key] for key in ("true",) if key in image})

    def summarize(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        true, found = ([row[key] for row in rows] for key in ("true", "found"))
        return classification_scores(true, found, self.positive)
