# SPDX-License-Identifier: Apache-2.0
"""Reports as strict JSON and rows of tables."""

import json
import math
from pathlib import Path
from typing import Any

import itk
import monai
import numpy as np
import pytest
import torch

import regplugins
from regplugins.io import sha256
from regplugins.report import headline_metrics, pair_report, summary_row, versions, write_json

MEASURES: dict[str, Any] = {
    "similarity": {
        "ncc": {"before": 0.41, "after": 0.83},
        "mutual_information": {"before": 0.2, "after": 0.5},
    },
    "overlap": {
        "before": {"1": {"dice": 0.5, "hd95": 4.0, "asd": 2.0}, "mean": {"dice": 0.5, "hd95": 4.0, "asd": 2.0}},
        "after": {"1": {"dice": 0.0, "hd95": float("nan"), "asd": 1.0}, "mean": {"dice": 0.75, "hd95": float("nan")}},
    },
    "tre_mm": {"before": {"mean": 6.0, "median": 5.0, "max": 9.0}, "after": {"mean": 1.5, "median": 1.0, "max": 23.7}},
    "affine": {"rotation_degrees": 12.34, "translation_mm": 56.78},
    "endpoint_error_mm": {"before": {"mean": 5.0, "p95": 8.0}, "after": {"mean": 0.75, "p95": 1.25}},
    "coverage_percent": {"before": 99.0, "after": 97.5},
    "labels": {"both": 1, "only_fixed": [], "only_moving": [7], "lost": {"before": [], "after": [1]}},
    "folding_percent": 0.03,
    "sd_log_jacobian": 0.12,
    "sd_log_jacobian_learn2reg": 0.03,
    "mean_jacobian": 1.03,
    "inverse_consistency_mm": {"mean": 0.05, "p95": 0.11},
    "cycle_consistency_mm": {"mean": 0.4, "p95": 0.9},
}


def strict(path: Path) -> Any:
    """Read JSON as the standard has it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.fixture
def report(tmp_path: Path) -> dict[str, Any]:
    for name in ("fixed.nii.gz", "moving.nii.gz", "model.pt"):
        (tmp_path / name).write_bytes(b"abc")
    paths = {"fixed": tmp_path / "fixed.nii.gz", "moving": str(tmp_path / "moving.nii.gz")}
    return pair_report("a → b", MEASURES, {"load": 1.5, "network": 0.25}, paths, tmp_path / "model.pt")


def test_sha256_of_the_standards_example(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    (tmp_path / "many").write_bytes(b"a" * 1_000_000)
    # FIPS 180-2, appendix B.1 and B.3.
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(str(tmp_path / "many")) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    with pytest.raises(FileNotFoundError, match="nothing"):
        sha256(tmp_path / "nothing")


def test_sha256_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, bytes]) -> str:
        for file, content in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return sha256(tmp_path / name)

    first = folder("a", {"1.dcm": b"x", "2.dcm": b"y", "deep/3.dcm": b"z"})
    assert folder("b", {"deep/3.dcm": b"z", "2.dcm": b"y", "1.dcm": b"x"}) == first
    others = [{"1.dcm": b"y", "2.dcm": b"x", "deep/3.dcm": b"z"}, {"1.dcm": b"x", "2.dcm": b"y", "3.dcm": b"z"}]
    assert len({first, *(folder(f"c{k}", files) for k, files in enumerate(others))}) == 3


def test_versions_are_those_that_run() -> None:
    expected = {"regplugins": regplugins, "monai": monai, "torch": torch, "numpy": np, "itk": itk}
    found = versions()
    assert {name: found[name] for name in expected} == {name: module.__version__ for name, module in expected.items()}
    assert found["python"]


def test_report_holds_everything(report: dict[str, Any], tmp_path: Path) -> None:
    write_json(report, tmp_path / "report.json")
    read = strict(tmp_path / "report.json")
    assert read["name"] == "a → b"
    assert read["similarity"]["ncc"] == {"before": 0.41, "after": 0.83}
    assert read["overlap"]["after"]["1"] == {"dice": 0.0, "hd95": None, "asd": 1.0}
    assert read["seconds"] == {"load": 1.5, "network": 0.25, "total": 1.75}
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert read["weights"] == {"path": str(tmp_path / "model.pt"), "sha256": abc, "matches_metadata": None}
    assert read["inputs"] == {
        key: {"path": str(tmp_path / f"{key}.nii.gz"), "sha256": abc} for key in ("fixed", "moving")
    }
    assert pair_report("x", {}, {}, {})["weights"] is None


def test_what_is_not_finite_is_null_however_deep(tmp_path: Path) -> None:
    write_json({"a": [1.0, float("inf"), {"b": (float("nan"), "NaN")}], "c": None, "d": True}, tmp_path / "x.json")
    assert strict(tmp_path / "x.json") == {"a": [1.0, None, {"b": [None, "NaN"]}], "c": None, "d": True}


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_json({"a": 1}, tmp_path / "x.json")
    with pytest.raises(TypeError):
        write_json({"a": object()}, tmp_path / "x.json")
    assert strict(tmp_path / "x.json") == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_row_has_the_key_figures_and_always_the_same_columns(report: dict[str, Any]) -> None:
    row = summary_row(report)
    assert math.isnan(row.pop("hd95_mean_after"))
    assert row == {
        "name": "a → b",
        "ncc_before": 0.41,
        "ncc_after": 0.83,
        "mutual_information_before": 0.2,
        "mutual_information_after": 0.5,
        "coverage_percent_before": 99.0,
        "coverage_percent_after": 97.5,
        "dice_mean_before": 0.5,
        "dice_mean_after": 0.75,
        "hd95_mean_before": 4.0,
        "asd_mean_before": 2.0,
        "asd_mean_after": None,
        "labels": 1,
        "labels_lost": 1,
        "tre_mean_before": 6.0,
        "tre_mean_after": 1.5,
        "tre_median_before": 5.0,
        "tre_median_after": 1.0,
        "tre_max_before": 9.0,
        "tre_max_after": 23.7,
        "affine_rotation_degrees": 12.34,
        "affine_translation_mm": 56.78,
        "endpoint_error_mean_before": 5.0,
        "endpoint_error_mean_after": 0.75,
        "endpoint_error_p95_before": 8.0,
        "endpoint_error_p95_after": 1.25,
        "folding_percent": 0.03,
        "sd_log_jacobian": 0.12,
        "sd_log_jacobian_learn2reg": 0.03,
        "mean_jacobian": 1.03,
        "inverse_consistency_mean": 0.05,
        "inverse_consistency_p95": 0.11,
        "cycle_consistency_mean": 0.4,
        "cycle_consistency_p95": 0.9,
        "seconds": 1.75,
    }
    assert summary_row({}) == dict.fromkeys(summary_row(report))


def test_headline_names_what_was_measured(report: dict[str, Any]) -> None:
    line = headline_metrics(report)
    assert line == headline_metrics(MEASURES)
    assert line.split(" · ") == [
        "NCC 0.410 → 0.830",
        "Dice 0.500 → 0.750",
        "TRE mean 6.00 → 1.50 mm",
        "TRE maximum 9.00 → 23.70 mm",
        "affine part: rotation 12.3°, translation 56.8 mm",
        "SD log J 0.120",
        "inverse consistency 0.11 mm (95th percentile)",
    ]
    assert headline_metrics({}) == ""
