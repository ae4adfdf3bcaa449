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

    def test_pairs_are_shared_out_and_their_table_is_one(self, datalist, run, torchrun, tmp_path):
        run("inference", datalist=str(datalist), init="none", output_dir=str(tmp_path / "one"))
        options = {"datalist": datalist, "init": "none", "output_dir": tmp_path / "two"}
        torchrun("inference", "multi_gpu_inference", **options)
        assert _table(tmp_path / "two") == _table(tmp_path / "one")
        for name in ("by_0", "by_1", "by_2"):
            ours, theirs = (nib.load(tmp_path / way / name / "warped.nii.gz").get_fdata() for way in ("two", "one"))
            np.testing.assert_allclose(ours, theirs, atol=0.05)  # of 1000; one thread rounds as two do not

    @pytest.mark.skipif(os.name != "posix", reason="signals")
    def test_one_dies_and_torchrun_starts_them_again(self, datalist, bundle, tmp_path):
        """As soon as a first pair is done: that one is not registered again."""
        options = {"datalist": datalist, "init": "none", "output_dir": tmp_path / "two"}
        command = torchrun_command(bundle, "inference", "multi_gpu_inference", **options)
        command.insert(command.index("--nproc_per_node=2"), "--max_restarts=1")
        launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_until(lambda: any((tmp_path / "two").glob("by_*/report.json")), launcher)
        done = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("by_*/report.json")}
        os.kill(_children(launcher.pid)[-1], signal.SIGKILL)
        assert launcher.wait(300) == 0
        assert [(row["name"], row["status"]) for row in _table(tmp_path / "two")] == [
            (name, "done") for name in ("by_0", "by_1", "by_2")
        ]
        assert all(path.stat().st_mtime_ns == written for path, written in done.items())
        assert list((tmp_path / "two").rglob(".*")) == []

    @pytest.mark.parametrize("restarts", [0, 1])
    def test_an_image_that_is_damaged(self, datalist, bundle, tmp_path, restarts):
        """The process that meets it last has nothing else to do, and waits for the other one; the failure stays one
        when torchrun starts both again.
        """
        records = json.loads(datalist.read_text())
        datalist.write_text(json.dumps([records[1], records[0], records[2]][: 3 - restarts]))
        names = [record["name"] for record in json.loads(datalist.read_text())]
        (tmp_path / "moving_1.nii.gz").write_bytes((tmp_path / "moving_1.nii.gz").read_bytes()[:1000])
        options = {"datalist": datalist, "init": "none", "output_dir": tmp_path / "two"}
        command = torchrun_command(bundle, "inference", "multi_gpu_inference", **options)
        command.insert(command.index("--nproc_per_node=2"), f"--max_restarts={restarts}")
        failed = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
        assert failed.returncode != 0
        assert f"1 of {len(names)} pairs failed" in failed.stderr
        table = {row["name"]: row for row in _table(tmp_path / "two")}
        status = {name: row["status"] for name, row in table.items()}
        assert status == {name: "failed" if name == "by_1" else "done" for name in names}
        assert "moving_1.nii.gz" in table["by_1"]["error"]


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
