# SPDX-License-Identifier: Apache-2.0
"""Abdomen: an MR slab of one person and the CT of another, 22 structures; ``--source`` only.

Structures were renumbered to common numbers, so that the published files do not serve.
"""

from __future__ import annotations

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import pair, prepare_files

DATASET = DataSet(
    name="abdomen_ct_mr",
    title="an MR slab and a CT of the abdomen of two people, 22 structures labeled",
    license="Apache-2.0",
    origin="github.com/wasserth/TotalSegmentator at 0e65a44, tests/reference_files: example_mr_sm, example_seg_mr, "
    "example_ct, example_seg_fast_force_split",
    prepare=prepare_files({"report": [pair("mr_ct", "mr", "ct", label="_label.nii.gz")]}),
    checksums=checksums("abdomen_ct_mr"),
)
