# SPDX-License-Identifier: Apache-2.0
"""Lung CT of one patient, baseline and follow-up; ``--source`` only.

The images were cropped about the right lung and the landmarks selected.
"""

from __future__ import annotations

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import pair, prepare_files

DATASET = DataSet(
    name="lung_ct",
    title="lung CT of one patient at two times, 51 landmarks and masks",
    license="Apache-2.0",
    origin="github.com/SuperElastix/elastix at 0c0b19f and earlier, Testing/Data/3DCT_lung_*.mha; "
    "github.com/InsightSoftwareConsortium/ITKElastix, examples/data/CT_3D_lung_*_point_set_corrected.txt",
    prepare=prepare_files(
        {
            "report": [pair("lung", "fixed", "moving", landmarks="_landmarks.csv")],
            "report_masks": [pair("lung", "fixed", "moving", landmarks="_landmarks.csv", mask="_mask.nii.gz")],
        }
    ),
    checksums=checksums("lung_ct"),
)
