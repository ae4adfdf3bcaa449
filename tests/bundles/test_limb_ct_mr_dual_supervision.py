# SPDX-License-Identifier: Apache-2.0
"""Behavior of this bundle alone; test_every_bundle.py has the rest."""

import json

import nibabel as nib
import numpy as np
import pytest

from tests.bundles.cases import LIMBS, TrainedCase

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case() -> TrainedCase:
    return LIMBS


@pytest.mark.parametrize("contrast", ["own", "remapped"])
def test_aligned_images_stay(contrast, bundle, run, tmp_path):
    """The sample's fixed image against itself, and against its tissues in the reverse order of intensities."""
    fixed = nib.load(bundle / "sample/fixed.nii.gz")
    values = fixed.get_fdata()
    body = values > 0.05 * values.max()
    shown = values if contrast == "own" else np.where(body, 1.1 * values.max() - values, values)
    nib.save(nib.Nifti1Image(shown, fixed.affine), tmp_path / "moving.nii.gz")
    pair = {"fixed": str(bundle / "sample/fixed.nii.gz"), "moving": str(tmp_path / "moving.nii.gz")}
    run("inference", **pair, init="none", output_dir=str(tmp_path))
    vectors = nib.load(tmp_path / "transform_1Warp.nii.gz").get_fdata().squeeze()
    assert np.linalg.norm(vectors, axis=-1)[body].mean() < 0.3  # mm


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
