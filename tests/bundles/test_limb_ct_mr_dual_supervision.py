# SPDX-License-Identifier: Apache-2.0
"""Behavior of this bundle alone; test_every_bundle.py has the rest."""

import json

import pytest

from tests.bundles.cases import LIMBS, TrainedCase

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case() -> TrainedCase:
    return LIMBS


def test_the_papers_recipe(data, train, run, tmp_path):
    """Steps and an evaluation of a narrower network of valid convolutions, whose field is smaller than its patch."""
    small = {"network_def#channels": [4, 4, 4], "patch_shape": [44, 44, 44], "max_epochs": 1}
    last = train(tmp_path, "paper", **small)
    (group,) = last["optimizer"]["param_groups"]
    assert group["lr"] == 0.01 and group["momentum"] == 0
    assert last["network"]["encoder.0.0.weight"].shape == (4, 2, 3, 3, 3)  # intensities of two images
    models, evaluation = str(tmp_path / "checkpoints"), tmp_path / "eval"
    options = {**LIMBS.evaluation, "network_def#channels": [4, 4, 4], "models_dir": models}
    run("train", "evaluate", "paper", dataset_dir=str(data), output_dir=str(evaluation), **options)
    assert json.loads((evaluation / "summary.json").read_text())["endpoint_error_mean_after"]["n"] == 2
