# SPDX-License-Identifier: Apache-2.0
"""Make the sample pairs of the brain bundles out of two packaged templates: a T1 and one whose contrast is made up.

Fetch the inputs by package name (Debian 12 and PyPI), then run the script::

    apt-get download mricron-data && dpkg -x mricron-data_*.deb mricron
    pip download --no-deps nilearn==0.14.1 && python -m zipfile -e nilearn-0.14.1-py3-none-any.whl nilearn
    python docs/samples/make_brain_sample.py mricron/usr/share/mricron/templates nilearn/nilearn/datasets/data \
        bundles/brain_mr_gated_gradient/sample
    python docs/samples/make_brain_sample.py … bundles/brain_mr_fire/sample --flair

The output is the same to the byte on every run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from regplugins.datasets.brain_t1_labels import remap
from regplugins.datasets.warped_pairs import SPACING
from regplugins.io import load_image, load_label, write_image
from regplugins.spatial import Grid, resample_labels, resample_to_grid

# How the second scan lies in its scanner: turned about an oblique axis (rotation vector, degrees) and shifted (mm).
TURN, SHIFT = (4.0, -3.0, 8.0), (6.0, -9.0, 5.0)
MARGIN_MM = 6.0
# A FLAIR's brightness of gray and white matter, and of what is neither: fluid.
GRAY, WHITE, FLUID = 1.0, 0.7, 0.2


def around(brain: torch.Tensor, grid: Grid) -> Grid:
    """A grid of ``SPACING`` about what is not zero, with a margin."""
    voxels = brain[0].nonzero().double()
    first, last = voxels.amin(0), voxels.amax(0)
    box = grid.affine.clone()
    box[:3, 3] = grid.index_to_world(first)
    extent = Grid(tuple(int(size) for size in last - first + 1), box)
    shape = [int((size + 2 * MARGIN_MM) / SPACING) for size in extent.shape]
    return extent.resized([SPACING] * 3, shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mricron", type=Path, help="templates folder of the package mricron-data")
    parser.add_argument("nilearn", type=Path, help="datasets/data folder of the package nilearn")
    parser.add_argument("sample", type=Path, help="folder to write to")
    parser.add_argument("--flair", action="store_true", help="fixed as a FLAIR, moving a T1; else a T1 and as a T2")
    args = parser.parse_args()
    fixed, gray, white = (
        load_image(args.nilearn / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        for name in ("t1", "gm", "wm")
    )
    grid = around(fixed.as_tensor(), Grid.from_image(fixed))
    if args.flair:
        parts = [(resample_to_grid(tissue, grid) / tissue.max()) for tissue in (gray, white)]
        fluid = (1 - parts[0] - parts[1]).clamp(min=0)
        values = 250 * (GRAY * parts[0] + WHITE * parts[1] + FLUID * fluid) * (resample_to_grid(fixed, grid) > 0)
    else:
        values = resample_to_grid(fixed, grid)
    write_image(values.round(), grid, args.sample / "fixed.nii.gz", np.uint8)

    moving = load_image(args.mricron / "ch2bet.nii.gz")
    label = load_label(args.mricron / "aal.nii.gz")
    grid = around(moving.as_tensor(), Grid.from_image(moving))
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(Rotation.from_rotvec(TURN, degrees=True).as_matrix())
    pose[:3, 3] = torch.tensor(SHIFT)
    turned = Grid(grid.shape, pose @ grid.affine)
    values = resample_to_grid(moving, grid) if args.flair else 1000 * remap(resample_to_grid(moving, grid))
    write_image(values.round(), turned, args.sample / "moving.nii.gz", np.int16)
    regions = resample_labels(label.as_tensor(), Grid.from_image(label), grid)
    write_image(regions, turned, args.sample / "moving_label.nii.gz", np.uint8)


if __name__ == "__main__":
    main()
