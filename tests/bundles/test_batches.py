# SPDX-License-Identifier: Apache-2.0
"""Many pairs: some that fail, runs that are given again, and several runs at once."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from regplugins.__main__ import main
from regplugins.checks import first_cause
from regplugins.io import folder_lock
from tests.bundles.cases import HIPPOCAMPUS, TrainedCase

pytestmark = pytest.mark.slow

GOOD = ("good_0", "good_1", "good_2")
BAD = {"absent": "absent.nii.gz: no such file", "damaged": "damaged.nii.gz", "far": "do not overlap"}


@pytest.fixture(scope="module")
def case() -> TrainedCase:
    return HIPPOCAMPUS


@pytest.fixture
def datalist(bundle: Path, tmp_path: Path) -> Path:
    """Three pairs that can be registered, among three that cannot."""
    moving = nib.load(bundle / "sample/moving.nii.gz")
    voxels = np.asarray(moving.dataobj)
    shifts = {"good_0": 0, "good_1": 1, "good_2": 2, "far": 1000}
    for name, shift in shifts.items():
        affine = moving.affine.copy()
        affine[0, 3] += shift
        nib.save(nib.Nifti1Image(voxels, affine), tmp_path / f"{name}.nii.gz")
    (tmp_path / "damaged.nii.gz").write_bytes((tmp_path / "good_0.nii.gz").read_bytes()[:1000])
    names = [name for both in zip(GOOD, BAD, strict=True) for name in both]
    fixed = str(bundle / "sample/fixed.nii.gz")
    records = [{"name": name, "fixed": fixed, "moving": f"{name}.nii.gz"} for name in names]
    (tmp_path / "pairs.json").write_text(json.dumps(records))
    return tmp_path / "pairs.json"


@pytest.fixture
def register(run: Callable[..., None], datalist: Path, tmp_path: Path) -> Callable[..., str]:
    """Registers the datalist; gives what was wrong at the end."""

    def call(**options: object) -> str:
        given = {"datalist": str(datalist), "init": "none", "output_dir": str(tmp_path / "o")}
        with pytest.raises(Exception) as error:
            run("inference", **(given | options))
        return str(first_cause(error.value))

    return call


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "summary.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_pairs_that_fail_are_recorded_and_the_others_registered(register, registered, tmp_path):
    """Old results of a pair that fails are removed."""
    shutil.copytree(registered, tmp_path / "o/damaged", ignore=shutil.ignore_patterns("summary.csv"))
    message = register()
    assert message.startswith("3 of 6 pairs failed")
    table = rows(tmp_path / "o")
    assert {name: row["status"] for name, row in table.items()} == dict.fromkeys(GOOD, "done") | dict.fromkeys(
        BAD, "failed"
    )
    for name, reason in BAD.items():
        assert reason in table[name]["error"]
        assert reason in message
        assert [path.name for path in (tmp_path / "o" / name).iterdir()] == ["failed.json"]
    assert all(float(table[name]["ncc_after"]) > 0.8 for name in GOOD)


def test_stop_at_the_first_failure(register, tmp_path):
    assert BAD["absent"] in register(failed_pairs="stop")
    status = {name: row["status"] for name, row in rows(tmp_path / "o").items()}
    expected = {"good_0": "done", "absent": "failed"}
    assert status == dict.fromkeys([*GOOD, *BAD], "missing") | expected


def test_resume_registers_what_is_not_done(register, run, datalist, bundle, tmp_path):
    register()
    reports = {name: tmp_path / "o" / name / "report.json" for name in GOOD}
    before = {name: path.stat().st_mtime_ns for name, path in reports.items()}
    affine = nib.load(bundle / "sample/moving.nii.gz").affine
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((30, 40, 30)), affine), tmp_path / "good_1.nii.gz")
    for name in BAD:
        (tmp_path / f"{name}.nii.gz").write_bytes((tmp_path / "good_0.nii.gz").read_bytes())
    warped = tmp_path / "o/good_2/warped.nii.gz"
    warped.write_bytes(warped.read_bytes()[:-100])
    options = {"datalist": str(datalist), "init": "none", "output_dir": str(tmp_path / "o")}
    run("inference", resume=True, **options)
    assert {row["status"] for row in rows(tmp_path / "o").values()} == {"done"}
    kept = {name: path.stat().st_mtime_ns == before[name] for name, path in reports.items()}
    # The second one's image is another now, of the third a result is damaged.
    assert kept == {"good_0": True, "good_1": False, "good_2": False}
    assert list((tmp_path / "o").rglob("failed.json")) == []
    datalist.write_text(json.dumps(json.loads(datalist.read_text())[:1]))
    run("inference", resume=True, interpolation="nearest", **options)
    assert reports["good_0"].stat().st_mtime_ns != before["good_0"]


def test_resume_sees_nested_options(bundle, datalist, tmp_path):
    report = tmp_path / "o/good_0/report.json"
    words = ["register", "--bundle", str(bundle), "--datalist", str(datalist), "-o", str(tmp_path / "o")]
    written = []
    for options in ([], [], ["--save#field_spacing", "4.0"], ["--save#field_spacing", "4.0"]):
        with pytest.raises(SystemExit, match="3 of 6 pairs failed"):
            main([*words, "--init", "none", "--resume", "True", *options])
        written.append(report.stat().st_mtime_ns)
    assert written[0] == written[1] < written[2] == written[3]
    assert "field_spacing" in json.loads(report.read_text())["settings"]["nested"]


def test_runs_with_resume_share_the_pairs(bundle, datalist, tmp_path):
    """Two processes that know nothing of each other; what each registered is what the other did not."""
    records = [record for record in json.loads(datalist.read_text()) if record["name"] in GOOD]
    datalist.write_text(json.dumps(records))
    command = [sys.executable, "-m", "regplugins", "register", "--bundle", str(bundle), "--datalist", str(datalist)]
    command += ["--output_dir", str(tmp_path / "o"), "--init", "none", "--resume", "True"]
    # A library that other tests load may have set the process's locale.
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") for _ in range(2)]
    said = [run.communicate(timeout=300)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    done = [line.split(" of 3 done: ") for text in said for line in text.splitlines() if " done: " in line]
    assert sorted(name for _, name in done) == sorted(GOOD)
    assert max(int(count) for count, _ in done) == 3
    assert {row["status"] for row in rows(tmp_path / "o").values()} == {"done"}


def test_runs_with_other_settings_do_not_share(register, registered, tmp_path):
    shutil.copytree(registered, tmp_path / "o/good_0")
    reports = {path: path.read_bytes() for path in (tmp_path / "o").rglob("report.json")}
    with folder_lock(tmp_path / "o", shared=True, purpose="other settings"):
        assert "another run writes into this folder" in register(resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "o").rglob("report.json")} == reports


def test_an_input_that_another_pair_would_overwrite(register, datalist, tmp_path):
    records = json.loads(datalist.read_text())
    (tmp_path / "o/good_1").mkdir(parents=True)
    precious = tmp_path / "o/good_1/warped.nii.gz"
    precious.write_bytes((tmp_path / "good_1.nii.gz").read_bytes())
    records[0]["fixed"] = "o/good_1/warped.nii.gz"
    datalist.write_text(json.dumps(records))
    assert "good_1/warped.nii.gz: is an input" in register()
    assert precious.read_bytes() == (tmp_path / "good_1.nii.gz").read_bytes()


@pytest.mark.parametrize("options", [{}, {"datalist": None}, {"resume": True}], ids=["datalist", "single", "resume"])
def test_a_folder_that_another_run_writes_into(register, options, tmp_path):
    with folder_lock(tmp_path / "o"):
        assert "another run writes into this folder" in register(**options)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"moving": "damaged.nii.gz"}, "damaged.nii.gz"),
        ({"moving": "nowhere.nii.gz"}, "nowhere.nii.gz: no such file"),
        ({"weights": "unheard"}, "model_unheard.pt: no such weights"),
        ({"device": "xpu"}, "device 'xpu' is not available"),
    ],
    ids=["damaged", "missing", "weights", "device"],
)
def test_old_results_do_not_outlive_a_failed_run(bundle, registered, register, options, message, tmp_path):
    shutil.copytree(registered, tmp_path / "o")
    (tmp_path / "o/notes.txt").touch()
    assert (tmp_path / "o/report.json").exists()
    if "moving" in options:
        options = {"fixed": str(bundle / "sample/fixed.nii.gz"), "moving": str(tmp_path / options["moving"])}
    assert message in register(datalist=None, **options)
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["notes.txt"]


def test_old_results_of_a_datalist_do_not_outlive_a_run_that_fails_early(registered, register, tmp_path):
    for name in ("good_0", "other"):
        shutil.copytree(registered, tmp_path / "o" / name, ignore=shutil.ignore_patterns("summary.csv"))
    (tmp_path / "o/summary.csv").touch()
    (tmp_path / "o/good_1").mkdir()
    (tmp_path / "o/good_1/failed.json").touch()
    assert "no such weights" in register(weights="unheard")
    assert not list((tmp_path / "o/good_0").iterdir())
    assert not list((tmp_path / "o/good_1").iterdir())
    assert [path.parent.name for path in (tmp_path / "o").glob("*/report.json")] == ["other"]
    assert not (tmp_path / "o/summary.csv").exists()


def test_results_of_pairs_that_are_not_of_this_run_are_named(registered, register, caplog, tmp_path):
    shutil.copytree(registered, tmp_path / "o/other")
    register(failed_pairs="stop")
    assert f"o: results that are not of this run are kept: {tmp_path / 'o/other/report.json'}" in caplog.text
    assert (tmp_path / "o/other/report.json").exists()


@pytest.mark.parametrize("options", [{"datalist": None, "resume": True}, {}], ids=["resume", "datalist"])
def test_finished_results_outlive_a_failed_run_that_keeps_them(registered, register, options, tmp_path):
    shutil.copytree(registered, tmp_path / "o")
    before = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert "no such weights" in register(weights="unheard", **options)
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == before


@pytest.mark.parametrize("weights", [None, "unheard"])
def test_inputs_among_backward_results_and_tables_are_kept(bundle, registered, register, weights, tmp_path):
    shutil.copytree(registered, tmp_path / "o/backward", ignore=shutil.ignore_patterns("summary.csv"))
    (tmp_path / "o/summary.csv").write_text("x,y,z\n0,0,0\n")
    before = {path: path.read_bytes() for path in (tmp_path / "o").rglob("*.*")}
    images = {key: str(bundle / f"sample/{key}.nii.gz") for key in ("fixed", "moving")}
    options = {"datalist": None} | ({} if weights is None else {"weights": weights})
    message = "is an input" if weights is None else "no such weights"
    assert message in register(**images, **options, fixed_landmarks=str(tmp_path / "o/summary.csv"))
    assert message in register(**{**images, "moving": str(tmp_path / "o/backward/warped.nii.gz")}, **options)
    assert {path: path.read_bytes() for path in (tmp_path / "o").rglob("*.*")} == before


def test_a_datalist_that_is_refused_removes_nothing(datalist, registered, register, tmp_path):
    shutil.copytree(registered, tmp_path / "o")
    before = sorted((tmp_path / "o").iterdir())
    records = json.loads(datalist.read_text())
    datalist.write_text(json.dumps([*records, records[0] | {"moving": str(tmp_path / "o/warped.nii.gz")}]))
    assert "is given twice" in register()
    assert sorted((tmp_path / "o").iterdir()) == before


@pytest.mark.parametrize("key", ["moving", "init"])
def test_results_that_are_inputs_are_kept(bundle, registered, register, key, tmp_path):
    shutil.copytree(registered, tmp_path / "o")
    before = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    given = {"fixed": "sample/fixed.nii.gz", "moving": "sample/moving.nii.gz"}
    options = {name: str(bundle / path) for name, path in given.items()}
    name = {"moving": "warped.nii.gz", "init": "transform_0GenericAffine.mat"}[key]
    options[key] = str(tmp_path / "o" / name)
    assert f"{name}: is an input" in register(datalist=None, **options)
    assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before


def test_what_a_killed_run_left_is_removed(run, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o/.0123456789ab-transform_1Warp.nii.gz").write_bytes(b"half")
    (tmp_path / "o/.0123456789ab-summary.csv").touch()
    others = tmp_path / "o/.notes"
    others.touch()
    run("inference", output_dir=str(tmp_path / "o"))
    assert [path.name for path in (tmp_path / "o").glob(".*")] == [others.name]
