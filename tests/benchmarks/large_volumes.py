# SPDX-License-Identifier: Apache-2.0
"""Peak memory and time of a bundle on volumes as large as scanners make them.

    python tests/benchmarks/large_volumes.py --fixed F --moving M [--bundle B] [--spacing 4]

Enlarges the two images to 512 x 512 x 409 and 512 x 512 x 94 voxels of the same field of view and registers them as a
user would, in a process of its own, at the network's resolution. What the network makes of them does not matter here.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fire
import numpy as np
import torch

from regplugins.io import load_image, write_image
from regplugins.spatial import Grid, resample

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {"fixed": (512, 512, 409), "moving": (512, 512, 94)}


def main(
    fixed: str,
    moving: str,
    bundle: str = str(ROOT / "bundles/hippocampus_mr_multires_fcn"),
    spacing: float = 4.0,
    init: str = "rigid",
) -> None:
    """Register the enlarged pair and print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        for name, path in (("fixed", fixed), ("moving", moving)):
            _enlarged(path, SHAPES[name], Path(folder) / f"{name}.nii.gz")
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"{bundle}/configs/inference.json"]
        command += ["--bundle_root", bundle, "--output_dir", f"{folder}/out", "--init", init, "--spacing", str(spacing)]
        command += ["--fixed", f"{folder}/fixed.nii.gz", "--moving", f"{folder}/moving.nii.gz"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        assert peak > before
        print(f"peak memory {peak / 2**20:.2f} GiB, {seconds:.0f} s")


def _enlarged(path: str, shape: tuple[int, int, int], target: Path) -> None:
    image = load_image(path)
    grid = Grid.from_image(image)
    factors = np.array(grid.shape) / np.array(shape)
    step = torch.diag(torch.from_numpy(np.append(factors, 1.0)))
    step[:3, 3] = torch.from_numpy((factors - 1) / 2)
    larger = Grid(shape, grid.affine @ step)
    write_image(resample(image.as_tensor(), grid, larger, fill=None), larger, target, np.int16)


if __name__ == "__main__":
    fire.Fire(main)
