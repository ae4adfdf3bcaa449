# SPDX-License-Identifier: Apache-2.0
"""Liver in free breathing, 4-D MR of two people; ``--source`` only.

Images and landmarks were converted from MetaImage and VTK, and a wrong spacing was corrected.
"""

from __future__ import annotations

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import pair, prepare_files

PHASES = (("s18", "1_10"), ("s18", "3_10"), ("s19", "1_6"), ("s19", "1_9"))

DATASET = DataSet(
    name="liver_mr4d",
    title="4-D MR of the liver of two people, exhale and two other phases each, landmarks",
    license="non-commercial (pTVreg; Vishnevskiy et al., IEEE TMI 2017; data: von Siebenthal et al. 2007)",
    origin="github.com/visva89/pTVreg at c359620, examples_ptv/data/ETHLiver",
    prepare=prepare_files(
        {
            "tune": [
                pair(f"{case}_{phase}", f"{case}/exhale", f"{case}/cyc_{phase}", landmarks="_landmarks.csv")
                for case, phase in PHASES
            ]
        }
    ),
    checksums=checksums("liver_mr4d"),
)
