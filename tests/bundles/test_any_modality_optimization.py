# SPDX-License-Identifier: Apache-2.0
"""Behavior of this bundle alone; test_every_bundle.py has the rest."""

import csv
import json
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from regplugins.__main__ import main
from tests.bundles.cases import ANY_MODALITY, BundleCase

pytestmark = pytest.mark.slow

LOSSES = "regplugins.losses"
# Of each preset on a grid of 4 mm, "ct_mr" of 2 mm, as the bundle's card and docs/methods/optimization.md have them.
MIND = "MINDLoss( norm='l1' (descriptor): MIND(neighborhood='ssc', radius=1, dilation=1, weighting='box') )"
SETTINGS: dict[str, dict[str, Any]] = {
    "same_modality": {
        "levels": [[16, 60], [8, 40], [4, 20]],
        "similarity": "LocalNCCLoss(kernel_size=5, kernel='box', smooth_dr=1e-05)",
        "regularization": "SquaredGradientLoss()",
        "regularization_weight": 0.0,
        "parametrization": "GreedyField(smoothing=1.7, step=0.5, field_smoothing=0.5)",
    },
    "multimodal": {
        "levels": [[16, 40], [8, 40], [4, 20]],
        "similarity": MIND,
        "regularization": "SquaredLaplacianLoss()",
        "regularization_weight": 2.0,
        "parametrization": "CompositiveField(smoothing=2.0, step=0.3)",
        "initializer": None,
    },
    "ct_mr": {
        "levels": [[8, 40], [4, 40]],
        "similarity": MIND,
        "parametrization": "CompositiveField(smoothing=3.0, step=0.3)",
        "initializer": None,
    },
    "large_deformation": {"levels": [[16, 60], [8, 60], [4, 20]], "similarity": MIND},
}
# "same_modality" has two, of which the report names the one that was kept.
INITIALIZERS = {
    "same_modality": ("AffineInitializer(", "ConvexInitializer("),
    "large_deformation": "ConvexInitializer(",
}
PRESETS = tuple(SETTINGS)


@pytest.fixture(scope="module")
def case() -> BundleCase:
    return ANY_MODALITY


def assert_better(report: dict[str, Any], measure: str = "mutual_information") -> None:
    """It says that the images are more alike than before, and that next to nothing folds."""
    similarity = report["similarity"][measure]
    assert similarity["after"] > similarity["before"]
    assert report["folding_percent"] < 0.1


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_registers(bundle, aligned, tmp_path, preset, capsys):
    # "ct_mr" ends at twice the spacing.
    spacing = "2" if preset == "ct_mr" else "4"
    words = ["--output_dir", str(tmp_path), "--preset", preset, "--spacing", spacing, "--init", aligned]
    main(["register", "--bundle", str(bundle), *words])
    assert f"preset: {preset}" in capsys.readouterr().err.splitlines()
    report = json.loads((tmp_path / "report.json").read_text())
    # The sample has two contrasts, for which `same_modality` is not made: its own measure rises.
    assert_better(report, "ncc" if preset == "same_modality" else "mutual_information")
    assert report["weights"] is None
    settings = report["settings"]
    assert settings["init"] == aligned
    assert settings["preset"] == settings["chosen"]["preset"] == preset
    for key, value in SETTINGS[preset].items():
        assert settings["chosen"][key] == value
    initializer = settings["chosen"]["initializer"] or ""
    assert initializer.startswith(INITIALIZERS.get(preset, ""))
    assert initializer.count("Initializer(") == (preset in INITIALIZERS)


def test_the_choice_is_reported_and_the_same_as_its_name(bundle, run, aligned, tmp_path, caplog):
    """The sample is a T1 MR and a made contrast of it."""
    options = {"init": aligned, "regularization_weight": 1.0, "levels": [[8.0, 10], [4.0, 5]]}
    with caplog.at_level("INFO", logger="regplugins"):
        run("inference", output_dir=str(tmp_path / "auto"), verbose=True, **options)
    settings = json.loads((tmp_path / "auto/report.json").read_text())["settings"]
    assert (settings["preset"], settings["chosen"]["preset"]) == ("auto", "multimodal")
    assert settings["chosen"]["regularization"] == SETTINGS["multimodal"]["regularization"]
    assert settings["regularization_weight"] == settings["chosen"]["regularization_weight"] == 1.0
    assert settings["chosen"]["linearity"] < 0.8
    named = {key: settings["chosen"][key] for key in ("preset", "spacing", "levels")}
    run("inference", output_dir=str(tmp_path / "named"), **(options | named))
    for name in ("warped.nii.gz", "transform_1Warp.nii.gz"):
        one, other = (nib.load(tmp_path / folder / name).get_fdata() for folder in ("auto", "named"))
        assert np.array_equal(one, other)
    command = ["register", "--bundle", str(bundle), "--output_dir", str(tmp_path / "auto"), "--resume", "True"]
    before = (tmp_path / "auto/report.json").stat().st_mtime_ns
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    main([*command, *words])
    assert (tmp_path / "auto/report.json").stat().st_mtime_ns == before


def test_the_initial_alignment_is_chosen_too_and_reported(bundle, tmp_path, capsys):
    words = ["--output_dir", str(tmp_path / "auto"), "--spacing", "4", "--levels", "[[8,5]]"]
    main(["register", "--bundle", str(bundle), *words])
    assert "init: affine" in capsys.readouterr().err.splitlines()
    settings = json.loads((tmp_path / "auto/report.json").read_text())["settings"]
    assert (settings["init"], settings["chosen"]["init"]) == ("auto", "affine")
    with (tmp_path / "auto/summary.csv").open() as table:
        assert next(csv.DictReader(table))["init"] == "affine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"regularization": {"_target_": f"{LOSSES}.SquaredGradientLoss"}, "regularization_weight": 0.15},
            {"regularization": "SquaredGradientLoss()"},
        ),
        (
            {"parametrization": {"_target_": "regplugins.registration.StationaryVelocityField"}},
            {"parametrization": "StationaryVelocityField("},
        ),
        (
            {"parametrization": {"_target_": "regplugins.registration.BSplineField", "distance": 4}},
            {"parametrization": "distance=4)"},
        ),
        (
            {
                "similarity": [
                    {"_target_": f"{LOSSES}.MINDLoss"},
                    {"_target_": "monai.losses.GlobalMutualInformationLoss"},
                ],
                "similarity_weights": [1.0, 0.1],
            },
            {"similarity": "GlobalMutualInformationLoss", "similarity_weights": [1.0, 0.1]},
        ),
    ],
)
def test_other_models_and_losses(run, aligned, tmp_path, options, said):
    run("inference", output_dir=str(tmp_path), init=aligned, levels=[[8.0, 10], [4.0, 10]], **options)
    report = json.loads((tmp_path / "report.json").read_text())
    assert_better(report)
    for key, text in said.items():
        assert text in report["settings"]["chosen"][key] or text == report["settings"]["chosen"][key]


def test_unknown_preset(bundle, tmp_path):
    message = rf"preset must be one of \{sorted([*PRESETS, 'auto'])}, got".replace("]", r"\]")
    for name in ("ultrasound", "metadata", "inference"):
        with pytest.raises(SystemExit, match=message):
            main(["register", "--bundle", str(bundle), "--output_dir", str(tmp_path), "--preset", name])


def test_both_directions_at_once(run, aligned, tmp_path):
    levels = [[8.0, 20], [4.0, 20]]
    run("inference", output_dir=str(tmp_path), init=aligned, symmetric=True, tolerance=0.01, levels=levels)
    assert_better(json.loads((tmp_path / "report.json").read_text()))


def test_slices(bundle, run, tmp_path):
    """Two dimensions: the middle slices of the sample."""
    for key in ("fixed", "moving"):
        image = nib.load(bundle / f"sample/{key}.nii.gz")
        middle = image.shape[2] // 2
        values = np.asarray(image.dataobj)[:, :, middle]
        affine = np.diag([*image.header.get_zooms()[:2], 1.0, 1.0])
        nib.save(nib.Nifti1Image(values, affine), tmp_path / f"{key}.nii.gz")
    pair = {key: str(tmp_path / f"{key}.nii.gz") for key in ("fixed", "moving")}
    run("inference", output_dir=str(tmp_path / "out"), init="center", **pair)
    assert_better(json.loads((tmp_path / "out/report.json").read_text()))
    assert nib.load(tmp_path / "out/transform_1Warp.nii.gz").shape[2:] == (1, 1, 2)
