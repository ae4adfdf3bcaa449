# SPDX-License-Identifier: Apache-2.0
"""Classification scores against MONAI's."""

import csv
import json
import math

import pytest
import torch
from ignite.engine import Engine
from monai.metrics import compute_confusion_matrix_metric

from regplugins.handlers import ClassTable
from regplugins.metrics import classification_scores

TRUE = ["CT"] * 6 + ["MR"] * 4
FOUND = ["CT"] * 5 + ["MR"] + ["MR"] * 2 + ["CT"] * 2


def test_scores_are_monais():
    scores = classification_scores(TRUE, FOUND, "CT")
    matrix = torch.tensor([5.0, 2.0, 2.0, 1.0])  # true and false positives, true and false negatives
    names = {
        "accuracy": "accuracy",
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "precision": "precision",
        "f_measure": "f1 score",
    }
    for own, theirs in names.items():
        assert scores[own] == pytest.approx(float(compute_confusion_matrix_metric(theirs, matrix))), own
    assert scores["g_mean"] == pytest.approx(math.sqrt(5 / 6 * 2 / 4))
    assert scores["n"] == 10


def test_nothing_of_a_class():
    scores = classification_scores(["MR"], ["MR"], "CT")
    assert scores["specificity"] == 1
    assert math.isnan(scores["sensitivity"])


def test_table(tmp_path):
    images = [{"name": "a", "true": "CT"}, {"name": "b", "true": "CT"}]
    predictions = iter([[0.2, 0.8], [0.9, 0.1]])

    def step(engine, batch):
        return [{"pred": torch.tensor(next(predictions))}]

    engine = Engine(step)
    table = ClassTable(tmp_path / "new/metrics.csv", ("MR", "CT"), tmp_path / "new/summary.json")
    table.attach(engine)
    engine.run([[image] for image in images])
    rows = list(csv.DictReader((tmp_path / "new/metrics.csv").open()))
    assert [(row["name"], row["found"], row["true"]) for row in rows] == [("a", "CT", "CT"), ("b", "MR", "CT")]
    assert float(rows[1]["probability"]) == pytest.approx(0.9)
    summary = json.loads((tmp_path / "new/summary.json").read_text())
    assert summary["sensitivity"] == 0.5
    assert summary["specificity"] is None
