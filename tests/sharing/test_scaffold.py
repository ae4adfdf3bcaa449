# SPDX-License-Identifier: Apache-2.0
"""A bundle laid out by `new` passes the checks of every bundle, and learns."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tests.test_bundles as checks
from regplugins.sharing import new, pack, unpack
from tests.bundles.conftest import run_bundle, unset_properties

NAME = "knee_mr_mymethod"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new(tmp_path_factory.mktemp("bundles") / NAME)


class TestChecks:
    @pytest.mark.parametrize(
        "check",
        [
            checks.test_metadata_is_consistent,
            checks.test_name_follows_the_model_zoo,
            checks.test_configurations_are_those_of_the_skeleton,
            checks.test_expressions_nest_no_calls,
            checks.test_holds_no_code_and_no_large_file,
            checks.test_license_is_the_projects,
            checks.test_weights_are_those_of_the_metadata,
            checks.test_weights_are_a_plain_state_dict,
            checks.test_logging_uses_the_standard_library_alone,
            checks.test_sample_is_small_and_has_terms,
            checks.test_sample_labels_lie_on_their_images,
        ],
        ids=lambda check: check.__name__,
    )
    def test_of_every_bundle(self, bundle, check):
        check(bundle)

    @pytest.mark.parametrize("name", checks.EVERYTHING)
    def test_has(self, bundle, name):
        if name != "configs/paper.json":  # there is no paper yet
            checks.test_has(bundle, name)

    def test_metadata(self, bundle, tmp_path):
        checks.test_metadata_passes_monai_with_our_schema(bundle, tmp_path)

    @pytest.mark.parametrize("kind", ["train", "inference"])
    def test_all_of_monais_properties(self, bundle, kind):
        assert unset_properties(bundle, kind) == []

    def test_can_be_packed(self, bundle, tmp_path):
        packed = unpack(str(pack(bundle, tmp_path)), tmp_path / "out")
        assert (packed / "models/model.pt").read_bytes() == (bundle / "models/model.pt").read_bytes()
        assert not (packed / "data").exists()


@pytest.mark.slow
class TestRuns:
    def test_registers_its_sample(self, bundle, tmp_path):
        run_bundle(bundle, "inference", output_dir=str(tmp_path))
        report = json.loads((tmp_path / "report.json").read_text())
        assert set(report["overlap"]["before"]) >= {"1", "2"}

    def test_learns_from_its_made_up_images(self, bundle, tmp_path):
        """Each epoch sees all 30 pairs of the 6 cases."""
        few = {"max_epochs": 2, "pairs_per_epoch": 30, "val_interval": 2, "val_pairs": 1, "learning_rate": 0.003}
        few |= {"spacing": 2.0, "network_shape": [20, 28, 20]}
        run_bundle(bundle, "train", output_dir=str(tmp_path), **few)
        (loss,) = [
            [event.value for event in events.Scalars("train_loss")]
            for events in (EventAccumulator(str(file)).Reload() for file in tmp_path.glob("events.out.tfevents.*"))
            if "train_loss" in events.Tags()["scalars"]
        ]
        first, second = np.reshape(loss[:30], (2, 15)).mean(axis=1)
        assert second < first - 0.01

    def test_is_evaluated(self, bundle, tmp_path):
        run_bundle(bundle, "train", "evaluate", output_dir=str(tmp_path))
        rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
        assert len(rows) == 6
        assert all(0.2 < float(row["dice_mean_after"]) < 0.95 for row in rows)


class TestRefusals:
    @pytest.mark.parametrize("name", ["knee", "knee_mr", "Knee_MR_mine", "knee_mr_", "knee-mr-mine"])
    def test_no_name_of_a_bundle(self, name, tmp_path):
        with pytest.raises(ValueError, match="<anatomy>_<modality>_<method>"):
            new(tmp_path / name)
        assert os.listdir(tmp_path) == []

    def test_nothing_is_overwritten(self, tmp_path):
        (tmp_path / NAME).mkdir()
        with pytest.raises(FileExistsError, match=NAME):
            new(tmp_path / NAME)
