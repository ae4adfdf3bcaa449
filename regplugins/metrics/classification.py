# SPDX-License-Identifier: Apache-2.0
"""Scores of a binary classification."""

from __future__ import annotations

import math
from collections.abc import Sequence


def classification_scores(true: Sequence[str], found: Sequence[str], positive: str) -> dict[str, float]:
    """Accuracy, sensitivity, specificity, precision, F-measure and g-mean; NaN where the denominator is zero.

    ``true`` and ``found`` hold the class of each image, in equal number (else ``ValueError``). ``positive`` is the
    class of sensitivity and precision.
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
