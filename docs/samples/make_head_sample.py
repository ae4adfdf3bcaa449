# SPDX-License-Identifier: Apache-2.0
"""Make the sample pair of the head bundles: a T1 and a CT, of two people, with the bone of the CT.

Fetch the inputs by package name (Debian 12), then run the script::

    apt-get download mricron-data && dpkg -x mricron-data_*.deb mricron
    apt-get download invesalius-examples && dpkg -x invesalius-examples_*.deb invesalius
    tar -x -f invesalius/usr/share/doc/invesalius-examples/examples/Cranium.inv3 -C invesalius
    python docs/samples/make_head_sample.py mricron/usr/share/mricron/templates/ch2.nii.gz invesalius/*/matrix.dat \
        bundles/head_ct_mr_rigid/sample

The output is the same to the byte on every run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from regplugins.io import load_image, write_image
from regplugins.spatial import Grid, resample_to_grid

SPACING = 2.5
# Of main.plist beside the matrix: slices, rows and columns, mm. Axes run to the patient's SHAPE_AXES.
SHAPE, STEPS = (108, 256, 256), (0.957031, 0.957031, 1.5)
# In air there is nothing but noise, which takes more room than the head.
AIR, TISSUE, BONE = -1000.0, -500.0, 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("t1", type=Path, help="ch2.nii.gz of the package mricron-data")
    parser.add_argument("ct", type=Path, help="matrix.dat of the package invesalius-examples")
    parser.add_argument("sample", type=Path, help="folder to write to")
    args = parser.parse_args()
    t1 = load_image(args.t1)
    grid = Grid.from_image(t1).resized([SPACING] * 3)
    write_image(resample_to_grid(t1, grid).round(), grid, args.sample / "fixed.nii.gz", np.uint8)

    values = np.fromfile(args.ct, np.int16).reshape(SHAPE).transpose(2, 1, 0).astype(np.float32)
    affine = torch.diag(torch.tensor([*STEPS, 1.0], dtype=torch.float64))
    ct = MetaTensor(torch.from_numpy(values.copy())[None], affine=affine)
    grid = Grid.from_image(ct).resized([SPACING] * 3)
    hounsfield = resample_to_grid(ct, grid)
    hounsfield = torch.where(hounsfield < TISSUE, AIR, hounsfield)
    write_image(hounsfield.round(), grid, args.sample / "moving.nii.gz", np.int16)
    write_image(hounsfield > BONE, grid, args.sample / "moving_label.nii.gz", np.uint8)


if __name__ == "__main__":
    main()
