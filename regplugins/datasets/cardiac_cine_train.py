# SPDX-License-Identifier: Apache-2.0
"""Cine MR of 12 hearts, end diastole and end systole; ``--source`` only.

The crop about the labels and the scale of the intensities are not fully described.
"""

from __future__ import annotations

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import pair, prepare_files

CASES = tuple(f"s{number:02d}" for number in range(12))
TRAINING, VALIDATION, TEST = CASES[:8], CASES[8:9], CASES[9:]


def _images(cases: tuple[str, ...]) -> list[dict[str, str]]:
    return [
        {"image": f"{case}_{phase}.nii.gz", "subject": case, "sequence": phase.upper()}
        for case in cases
        for phase in ("ed", "es")
    ]


def _pairs(cases: tuple[str, ...]) -> list[dict[str, str]]:
    return [pair(case, f"{case}_ed", f"{case}_es", label="_label.nii.gz") for case in cases]


DATASET = DataSet(
    name="cardiac_cine_train",
    title="short-axis cine MR of 12 hearts, ventricles and myocardium labeled",
    license="not stated; measure only, ship no weights trained on it",
    origin="github.com/laisong127/Cardiac-segmentation, Different_Vendor (by its file names the M&Ms challenge)",
    prepare=prepare_files(
        {
            "tune": _pairs(CASES),
            "training": _images(TRAINING),
            "validation_images": _images(VALIDATION),
            "validation": _pairs(VALIDATION),
            "test": _pairs(TEST),
        }
    ),
    checksums=checksums("cardiac_cine_train"),
)
