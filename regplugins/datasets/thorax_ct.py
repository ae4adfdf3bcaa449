# SPDX-License-Identifier: Apache-2.0
"""Thorax CT of two patients with clinical contours; ``--source`` only.

Contours were rasterized, smoothed and resampled with settings that are not described.
"""

from __future__ import annotations

from itertools import permutations

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import pair, prepare_files

CASES = ("003", "007")

DATASET = DataSet(
    name="thorax_ct",
    title="thorax CT of two patients, lungs, heart, esophagus, cord and tumor labeled",
    license="CC BY-NC 3.0 (NSCLC-Radiomics; Aerts et al. 2014)",
    origin="github.com/AIM-Harvard/pyplastimatch at 97cbe80, sample_data",
    prepare=prepare_files(
        {
            "tune": [
                pair(f"{a}_{b}", f"LUNG1-{a}", f"LUNG1-{b}", label="_label.nii.gz") for a, b in permutations(CASES, 2)
            ]
        }
    ),
    checksums=checksums("thorax_ct"),
)
