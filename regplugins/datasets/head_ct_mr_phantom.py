# SPDX-License-Identifier: Apache-2.0
"""CT and T2 MR of the head of a pig cadaver, not aligned; ``--source`` only.

The CT was resampled to 1 mm and the MR binned by 2 x 2 x 1, with an interpolation that is not described.
"""

from __future__ import annotations

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import pair, prepare_files

DATASET = DataSet(
    name="head_ct_mr_phantom",
    title="CT and T2 MR of one head from two scanners",
    license="CC BY 4.0 (MRI-DIR; Ger et al. 2018)",
    origin="The Cancer Imaging Archive, collection MRI-DIR",
    prepare=prepare_files({"test": [pair("phantom", "mr_t2", "ct")]}),
    checksums=checksums("head_ct_mr_phantom"),
)
