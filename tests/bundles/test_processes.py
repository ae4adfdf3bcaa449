# SPDX-License-Identifier: Apache-2.0
"""Several processes: the same table, and what is left when one of them dies."""

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

from tests.bundles.cases import GATED_GRADIENT, TrainedCase
from tests.bundles.conftest import torchrun_command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case() -> TrainedCase:
    return GATED_GRADIENT


@pytest.mark.skipif(os.name != "posix", reason="signals")
class TestDeath:
    def test_pairs_are_shared_out_one_image_is_damaged_and_one_process_dies(self, bundle, run, tmp_path):
        """As soon as a first pair is done: that one is not registered again when torchrun starts both again.

        The process that meets the failure waits for the other one. Results and table are those of one process.
        """
        fixed, moving = (bundle / f"sample/{key}.nii.gz" for key in ("fixed", "moving"))
        image = nib.load(moving)
        (tmp_path / "damaged.nii.gz").write_bytes(moving.read_bytes()[:1000])
        for shift in range(2):
            affine = image.affine.copy()
            affine[0, 3] += shift
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / f"by_{shift}.nii.gz")
        names = ("damaged", "by_0", "by_1")
        records = [{"name": name, "fixed": str(fixed), "moving": str(tmp_path / f"{name}.nii.gz")} for name in names]
        (tmp_path / "pairs.json").write_text(json.dumps(records))
        options = {"datalist": str(tmp_path / "pairs.json"), "init": "none"}
        command = torchrun_command(bundle, "inference", "multi_gpu_inference", **options, output_dir=tmp_path / "two")
        command.insert(command.index("--nproc_per_node=2"), "--max_restarts=1")
        with (tmp_path / "said").open("w") as said:
            launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _wait_until(lambda: any((tmp_path / "two").glob("by_*/report.json")), launcher)
        done = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("by_*/report.json")}
        os.kill(_children(launcher.pid)[-1], signal.SIGKILL)
        with pytest.raises(RuntimeError):
            run("inference", **options, output_dir=str(tmp_path / "one"))
        assert launcher.wait(300) != 0
        assert "1 of 3 pairs failed" in (tmp_path / "said").read_text(encoding="utf-8")
        table = _table(tmp_path / "two")
        assert table == _table(tmp_path / "one")
        assert [row["status"] for row in table] == ["failed", "done", "done"]
        assert "damaged.nii.gz" in table[0]["error"]
        for name in names[1:]:
            ours, theirs = (nib.load(tmp_path / way / name / "warped.nii.gz").get_fdata() for way in ("two", "one"))
            np.testing.assert_allclose(ours, theirs, atol=0.05)  # of 1000; one thread rounds as two do not
        assert all(path.stat().st_mtime_ns == written for path, written in done.items())
        assert list((tmp_path / "two").rglob(".*")) == []


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
