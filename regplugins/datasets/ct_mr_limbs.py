# SPDX-License-Identifier: Apache-2.0
"""CT and T1 MR of the limb or pelvis of 20 patients, aligned; ``--source`` only.

The CT was registered to the MR and resampled; the registration is described, but not to the last setting.
"""

from __future__ import annotations

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import prepare_files

SPLIT = {
    "training": (6, 10, 15, 18, 23, 25, 29, 31, 34, 36, 41, 42, 50, 51),
    "validation_images": (12, 26, 38),
    "test_images": (22, 33, 47),
}

DATASET = DataSet(
    name="ct_mr_limbs",
    title="CT and T1 MR of one limb or pelvis, 20 patients, on one grid a patient",
    license="CC BY 3.0 as far as known, not verified (TCIA Soft-tissue-Sarcoma; Vallieres et al. 2015)",
    origin="github.com/cerr/CERR, history from 37d237e to f76e9c5, "
    "Unit_Testing/data_for_cerr_tests/IBSI2_multimodal_data/STS_*",
    prepare=prepare_files(
        {
            section: [
                {"image": f"STS_{case:03d}_{sequence}.nii.gz", "subject": f"STS_{case:03d}", "sequence": sequence}
                for case in cases
                for sequence in ("ct", "mr")
            ]
            for section, cases in SPLIT.items()
        }
    ),
    checksums=checksums("ct_mr_limbs"),
)
