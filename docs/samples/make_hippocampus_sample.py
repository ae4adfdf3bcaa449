# SPDX-License-Identifier: Apache-2.0
"""Cut the sample pair of `bundles/hippocampus_mr_multires_fcn` out of two packaged templates.

Fetch the inputs by package name (Debian 12 and PyPI), then run the script::

    apt-get download mricron-data && dpkg -x mricron-data_*.deb mricron
    pip download --no-deps nilearn==0.14.1 && python -m zipfile -e nilearn-0.14.1-py3-none-any.whl nilearn
    python docs/samples/make_hippocampus_sample.py mricron/usr/share/mricron/templates nilearn/nilearn/datasets/data \
        bundles/hippocampus_mr_multires_fcn/sample

The output is the same to the byte on every run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

Box = tuple[tuple[float, float, float], tuple[float, float, float]]

AAL_HIPPOCAMPUS_LEFT = 37
# The uncal apex, where the hippocampus' head and body meet, lies at this y (mm) of MNI space:
# Poppenk et al. 2013, doi:10.1016/j.tics.2013.03.005.
UNCAL_APEX_Y = -21.0
# First and last voxel center, RAS+ mm: the left hippocampus with the margins of the Decathlon's crops.
# The two boxes differ in place and size as the crops of two people do.
FIXED_BOX: Box = ((-43.0, -45.0, -30.0), (-6.0, 4.0, 14.0))
MOVING_BOX: Box = ((-46.0, -44.0, -31.0), (-6.0, 6.0, 15.0))


def crop(path: Path, box: Box) -> nib.Nifti1Image:
    """Cut a box of the world out of a RAS+ image, keeping its voxels, data type and world coordinates.

    Args:
        path: a 3-D NIfTI file whose axes are those of the world.
        box: world coordinates of the first and of the last voxel's center, RAS+ mm.
    """
    image = nib.load(path)
    inverse = np.linalg.inv(image.affine)
    first, last = (np.rint(apply_affine(inverse, corner)).astype(int) for corner in box)
    voxels = np.asarray(image.dataobj)[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))]
    affine = image.affine.copy()
    affine[:3, 3] = apply_affine(image.affine, first)
    cropped = nib.Nifti1Image(voxels, affine)
    cropped.header.set_xyzt_units("mm")
    return cropped


def split_hippocampus(atlas: nib.Nifti1Image) -> nib.Nifti1Image:
    """Turn AAL's left hippocampus into the Decathlon's classes: 1 from the uncal apex forward, 2 behind it."""
    inside = np.asarray(atlas.dataobj) == AAL_HIPPOCAMPUS_LEFT
    world_y = apply_affine(atlas.affine, np.moveaxis(np.indices(inside.shape), 0, -1))[..., 1]
    classes = np.where(world_y >= UNCAL_APEX_Y, 1, 2) * inside
    return nib.Nifti1Image(classes.astype(np.uint8), atlas.affine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mricron", type=Path, help="templates folder of the package mricron-data")
    parser.add_argument("nilearn", type=Path, help="datasets/data folder of the package nilearn")
    parser.add_argument("sample", type=Path, help="folder to write to")
    args = parser.parse_args()
    icbm152 = args.nilearn / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    nib.save(crop(icbm152, FIXED_BOX), args.sample / "fixed.nii.gz")
    nib.save(crop(args.mricron / "ch2.nii.gz", MOVING_BOX), args.sample / "moving.nii.gz")
    nib.save(split_hippocampus(crop(args.mricron / "aal.nii.gz", MOVING_BOX)), args.sample / "moving_label.nii.gz")


if __name__ == "__main__":
    main()
