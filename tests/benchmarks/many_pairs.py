# SPDX-License-Identifier: Apache-2.0
"""Hundreds of pairs, some of them damaged, on two processes of which one is killed: what is left at the end.

    python tests/benchmarks/many_pairs.py bundles/hippocampus_mr_multires_fcn O [--pairs 500] [--faults 20]

Prints the statuses of the table, and fails unless each good pair is done and each planted fault is reported.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fire
import nibabel as nib
import numpy as np


def _write_faults(moving: nib.Nifti1Image, folder: Path) -> list[str]:
    """Images that cannot be registered, by file name."""
    voxels, affine = np.asarray(moving.dataobj, np.float32), moving.affine
    far = affine.copy()
    far[:3, 3] += 1000
    holes = voxels.copy()
    holes[0] = np.nan
    images = {"nan": (holes, affine), "constant": (np.ones_like(voxels), affine), "far": (voxels, far)}
    images["series"] = (np.stack([voxels, voxels], axis=3), affine)
    for name, (values, place) in images.items():
        nib.save(nib.Nifti1Image(values, place), folder / f"{name}.nii.gz")
    (folder / "cut.nii.gz").write_bytes((folder / "far.nii.gz").read_bytes()[:1000])
    (folder / "empty.nii.gz").write_bytes(b"")
    return [*images, "cut", "empty", "absent"]


def _wait_for(count: int, output: Path, process: subprocess.Popen[bytes]) -> None:
    while len(list(output.glob("*/report.json"))) < count:
        assert process.poll() is None, "ended by itself"
        time.sleep(0.2)


def main(bundle: str, folder: str, pairs: int = 500, faults: int = 20) -> None:
    root, target = Path(bundle).resolve(), Path(folder).resolve()
    target.mkdir(parents=True)
    moving = nib.load(root / "sample/moving.nii.gz")
    names = itertools.cycle(_write_faults(moving, target))
    is_faulty = np.zeros(pairs, bool)
    is_faulty[np.random.default_rng(0).choice(pairs, faults, replace=False)] = True
    records = []
    for number in range(pairs):
        name = next(names) if is_faulty[number] else f"good_{number}"
        if not is_faulty[number]:
            affine = moving.affine.copy()
            affine[0, 3] += (number % 7) / 2
            nib.save(nib.Nifti1Image(np.asarray(moving.dataobj), affine), target / f"{name}.nii.gz")
        fixed = str(root / "sample/fixed.nii.gz")
        records.append({"name": str(number), "fixed": fixed, "moving": str(target / f"{name}.nii.gz")})
    (target / "pairs.json").write_text(json.dumps(records))
    files = [str(root / f"configs/{name}.json") for name in ("inference", "multi_gpu_inference")]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--max_restarts=1"]
    command += ["-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(root)]
    command += ["--datalist", str(target / "pairs.json"), "--output_dir", str(target / "o"), "--init", "none"]
    begin = time.perf_counter()
    with (target / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _wait_for(pairs // 5, target / "o", process)
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(children[-1]), signal.SIGKILL)
        code = process.wait()
    with (target / "o/summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    print(Counter(row["status"] for row in rows), f"exit status {code}, {time.perf_counter() - begin:.0f} s")
    for row in rows:
        if row["status"] == "failed":
            print(row["name"], row["error"])
    assert code != 0
    assert [row["name"] for row in rows] == [record["name"] for record in records]
    assert [row["status"] for row in rows] == ["failed" if faulty else "done" for faulty in is_faulty]
    assert not list((target / "o").rglob(".*"))


if __name__ == "__main__":
    fire.Fire(main)
