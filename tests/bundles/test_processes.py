# SPDX-License-Identifier: Apache-2.0
"""Several processes: the same table, and what is left when one of them dies."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundles.cases import GATED_GRADIENT, TrainedCase
from tests.bundles.conftest import torchrun_command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case() -> TrainedCase:
    return GATED_GRADIENT


class TestTraining:
    def test_a_batch_that_cannot_be_shared(self, case, bundle, data, tmp_path):
        options = {"dataset_dir": data, "output_dir": tmp_path, **case.few_steps, "batch_size": 3, "max_epochs": 1}
        command = torchrun_command(bundle, "train", "multi_gpu_train", **options)
        failed = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
        assert failed.returncode != 0
        assert "batch_size must be a multiple of the number of processes, 2, got 3" in failed.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
class TestDeath:
    def test_training_ends_with_an_error_and_resumes(self, case, bundle, data, torchrun, tmp_path):
        # The shipped schedule depends on the number of epochs, which differs between the two runs.
        constant = {"_target_": "torch.optim.lr_scheduler.ConstantLR", "optimizer": "@optimizer", "factor": 1.0}
        options = {"output_dir": tmp_path, **case.few_steps, "lr_scheduler": constant}
        launcher = subprocess.Popen(
            torchrun_command(bundle, "train", "multi_gpu_train", **{**options, "dataset_dir": data, "max_epochs": 200}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        last = tmp_path / "checkpoints/last.pt"
        _wait_until(last.exists, launcher)
        os.kill(_children(launcher.pid)[-1], signal.SIGKILL)
        assert launcher.wait(60) != 0
        done = torch.load(last, weights_only=True)["epoch"]
        torchrun("train", "multi_gpu_train", **{**options, "max_epochs": done + 1, "resume": True})
        assert torch.load(last, weights_only=True)["epoch"] == done + 1


class TestInference:
    @pytest.fixture
    def datalist(self, bundle, tmp_path) -> Path:
        """Three pairs, which two processes cannot share evenly: the sample, with the moving image shifted."""
        records = []
        for shift in range(3):
            image = nib.load(bundle / "sample/moving.nii.gz")
            affine = image.affine.copy()
            affine[0, 3] += shift
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / f"moving_{shift}.nii.gz")
            fixed = str(bundle / "sample/fixed.nii.gz")
            records.append({"name": f"by_{shift}", "fixed": fixed, "moving": str(tmp_path / f"moving_{shift}.nii.gz")})
        (tmp_path / "pairs.json").write_text(json.dumps(records))
        return tmp_path / "pairs.json"

    @pytest.mark.skipif(os.name != "posix", reason="signals")
    def test_pairs_are_shared_out_and_one_process_dies(self, datalist, bundle, run, tmp_path):
        """As soon as a first pair is done: that one is not registered again when torchrun starts both again. Results
        and table are those of one process.
        """
        launcher = subprocess.Popen(
            _restarting(bundle, datalist, tmp_path / "two"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait_until(lambda: any((tmp_path / "two").glob("by_*/report.json")), launcher)
        done = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("by_*/report.json")}
        os.kill(_children(launcher.pid)[-1], signal.SIGKILL)
        run("inference", datalist=str(datalist), init="none", output_dir=str(tmp_path / "one"))
        assert launcher.wait(300) == 0
        assert _table(tmp_path / "two") == _table(tmp_path / "one")
        assert [row["status"] for row in _table(tmp_path / "two")] == ["done"] * 3
        for name in ("by_0", "by_1", "by_2"):
            ours, theirs = (nib.load(tmp_path / way / name / "warped.nii.gz").get_fdata() for way in ("two", "one"))
            np.testing.assert_allclose(ours, theirs, atol=0.05)  # of 1000; one thread rounds as two do not
        assert all(path.stat().st_mtime_ns == written for path, written in done.items())
        assert list((tmp_path / "two").rglob(".*")) == []

    def test_an_image_that_is_damaged(self, datalist, bundle, tmp_path):
        """The process that meets it last has nothing else to do, and waits for the other one; the failure stays one
        when torchrun starts both again.
        """
        records = json.loads(datalist.read_text())
        datalist.write_text(json.dumps([records[1], records[0]]))
        (tmp_path / "moving_1.nii.gz").write_bytes((tmp_path / "moving_1.nii.gz").read_bytes()[:1000])
        command = _restarting(bundle, datalist, tmp_path / "two")
        failed = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
        assert failed.returncode != 0
        assert "1 of 2 pairs failed" in failed.stderr
        table = {row["name"]: row for row in _table(tmp_path / "two")}
        assert {name: row["status"] for name, row in table.items()} == {"by_1": "failed", "by_0": "done"}
        assert "moving_1.nii.gz" in table["by_1"]["error"]


def _restarting(bundle: Path, datalist: Path, output: Path) -> list[str]:
    """Registration on two processes, which torchrun starts once more if one fails."""
    options = {"datalist": datalist, "init": "none", "output_dir": output}
    command = torchrun_command(bundle, "inference", "multi_gpu_inference", **options)
    command.insert(command.index("--nproc_per_node=2"), "--max_restarts=1")
    return command


def _table(folder: Path) -> list[dict[str, str]]:
    """Rows without what is another number each time, figures to six digits."""
    with (folder / "summary.csv").open() as file:
        rows = [{key: value for key, value in row.items() if "seconds" not in key} for row in csv.DictReader(file)]
    return [{key: _rounded(value) for key, value in row.items()} for row in rows]


def _rounded(value: str) -> str:
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def _children(parent: int) -> list[int]:
    return [int(word) for word in subprocess.run(["pgrep", "-P", str(parent)], capture_output=True).stdout.split()]


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "ended by itself"
        if time.monotonic() > end:
            process.terminate()  # and with it what it started
            pytest.fail("it takes too long")
        time.sleep(0.1)
