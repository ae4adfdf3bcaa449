# SPDX-License-Identifier: Apache-2.0
"""Behavior of this bundle alone; test_every_bundle.py has the rest."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.bundles.cases import HIPPOCAMPUS, TrainedCase
from tests.bundles.conftest import cause_of

pytestmark = pytest.mark.slow


SAMPLE = Path(__file__).resolve().parents[2] / "bundles/hippocampus_mr_multires_fcn/sample"


@pytest.fixture(scope="module")
def case() -> TrainedCase:
    return HIPPOCAMPUS


class TestTraining:
    def test_ablation(self, train, tmp_path):
        overrides = {"network_def#variant": "coarse", "pairs_per_epoch": 2, "batch_size": 1}
        assert train(tmp_path, max_epochs=1, **overrides)["iteration"] == 2

    def test_papers_objective(self, train, tmp_path):
        small = {"batch_size": 2, "pairs_per_epoch": 2}
        assert train(tmp_path, "paper", max_epochs=1, **small)["epoch"] == 1

    def test_weak_supervision(self, train, tmp_path):
        assert train(tmp_path, "weak", max_epochs=1)["epoch"] == 1

    def test_labels_are_not_needed(self, data, train, tmp_path):
        sections = json.loads((data / "datalist.json").read_text())
        for records in sections.values():
            for record in records:
                del record["label"]
        (tmp_path / "datalist.json").write_text(json.dumps(sections))
        assert "--validation_score" in cause_of(train, tmp_path / "output", dataset_dir=str(tmp_path), max_epochs=1)
        score = "$regplugins.handlers.correlation"
        best = train(tmp_path / "output", dataset_dir=str(tmp_path), max_epochs=1, validation_score=score)["best"]
        assert -1 < best < 1


class TestRefinement:
    def test_sees_the_masked_part_alone(self, run, tmp_path):
        """The same start; the mask hides a half."""
        path = SAMPLE / "fixed.nii.gz"
        image = nib.load(path)
        mask = np.ones(image.shape, np.uint8)
        mask[: image.shape[0] // 2] = 0
        nib.save(nib.Nifti1Image(mask, image.affine), tmp_path / "mask.nii.gz")
        pair = {"fixed": str(path), "moving": str(SAMPLE / "moving.nii.gz"), "init": "none", "levels": [[2.0, 20]]}
        fields = []
        for name, options in (("all", {}), ("half", {"fixed_mask": str(tmp_path / "mask.nii.gz")})):
            run("inference", "refine", output_dir=str(tmp_path / name), **pair, **options)
            fields.append(np.asanyarray(nib.load(tmp_path / name / "transform_1Warp.nii.gz").dataobj).squeeze())
        change = np.linalg.norm(fields[0] - fields[1], axis=-1)
        hidden, seen = (change[part].mean() for part in (mask == 0, mask > 0))
        assert hidden > 3 * seen

    def test_registering_is_training_from_random_weights(self, run, tmp_path):
        options = {"weights": "random", "refine": "weights", "iterations": 10, "passes": 1, "seed": 1}
        run("inference", "refine", output_dir=str(tmp_path), **options)
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["similarity"]["ncc"]["after"] > report["similarity"]["ncc"]["before"]
        assert report["folding_percent"] < 0.5
        assert report["weights"] is None
