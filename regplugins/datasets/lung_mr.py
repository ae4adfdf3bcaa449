# SPDX-License-Identifier: Apache-2.0
"""Proton MR of the chest of three people, five lobes; ``--source`` only.

The published files were written anew, so that their SHA-256 is not known.
"""

from __future__ import annotations

from itertools import permutations

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import pair, prepare_files

CASES = ("0004", "0006", "0007")

DATASET = DataSet(
    name="lung_mr",
    title="chest MR of three people, five lobes labeled",
    license="not stated; measure only, ship no weights trained on it (Tustison et al., Acad Radiol 2016)",
    origin="github.com/ntustison/LungAndLobeEstimationExample at 7a5dd67, ProtonImages and ProtonLobeMasks",
    prepare=prepare_files({"tune": [pair(f"{a}_{b}", a, b, label="_label.nii.gz") for a, b in permutations(CASES, 2)]}),
    checksums=checksums("lung_mr"),
)
