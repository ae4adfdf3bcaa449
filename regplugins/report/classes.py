# SPDX-License-Identifier: Apache-2.0
"""What is written about classified images: a row each, and how many were right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine

from regplugins.report.table import Table


def classification_scores(true: Sequence[str], found: Sequence[str], positive: str) -> dict[str, float]:
    """Accuracy, sensitivity, specificity, precision, F-measure and g-mean; NaN where there is nothing to count.

    Args:
        true: class of each image.
        found: class that it was given.
        positive: the class that sensitivity and precision are of.

    Raises:
        ValueError: not as many of the one as of the other.
    """
    outcomes = [(a == positive, b == positive) for a, b in zip(true, found, strict=True)]
    tp, tn, fp, fn = (outcomes.count(both) for both in ((True, True), (False, False), (False, True), (True, False)))
    sensitivity, specificity, precision = _share(tp, fn), _share(tn, fp), _share(tp, fp)
    return {
        "n": len(outcomes),
        "accuracy": _share(tp + tn, fp + fn),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": precision,
        "f_measure": _share(2 * tp, fp + fn),
        "g_mean": math.sqrt(sensitivity * specificity),
    }


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else math.nan


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
