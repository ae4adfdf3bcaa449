# SPDX-License-Identifier: Apache-2.0
"""Cine MR of two people, end diastole to end systole; ``--source`` only.

The headers of the first were rewritten, so that the published files do not serve.
"""

from __future__ import annotations

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import pair, prepare_files

CASES = ("acdc005", "joint0001")

DATASET = DataSet(
    name="cardiac_cine",
    title="short-axis cine MR of two people, ventricles and myocardium labeled",
    license="CC BY-NC-SA 4.0 (ACDC; Bernard et al., IEEE TMI 2018), MIT",
    origin="github.com/MATHplus-Young-Academy/P2-Cardiac-Motion at 844995e, NN_segmentation/Datasets/patient005; "
    "github.com/cq615/Joint-Motion-Estimation-and-Segmentation at 1c36d97, test/0001",
    prepare=prepare_files(
        {"report": [pair(case, f"{case}_ed", f"{case}_es", label="_label.nii.gz") for case in CASES]}
    ),
    checksums=checksums("cardiac_cine"),
)
