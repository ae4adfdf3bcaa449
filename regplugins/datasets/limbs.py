# SPDX-License-Identifier: Apache-2.0
"""CT and T1-weighted MR of one limb or pelvis, aligned: training images, and pairs with known warps; ``--source`` only.

The published CT was registered to the MR and resampled. The registration is described, but not to the last setting.
"""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, binary_fill_holes, label, median_filter
from tqdm import tqdm

from regplugins.data.random_warps import RandomWarp
from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import PairWriter, write_datalist
from regplugins.datasets.warped_pairs import isotropic_grid, write_warped
from regplugins.io.files import existing
from regplugins.io.images import load_image, load_label

TRAINING_CASES = (6, 10, 15, 18, 23, 25, 29, 31, 34, 36, 41, 42, 50, 51)
VALIDATION_CASES, TEST_CASES = (12, 26, 38), (22, 33, 47)
SEQUENCES = ("ct", "mr")
# Fixed and moving sequence of the pairs with a known warp, and their number for each patient.
ORDERS = (("ct", "mr"), ("mr", "ct"))
PAIRS = 6

FAT, MUSCLE, BONE = 1, 2, 3
# Hounsfield units between fat, other soft tissue and bone; voxels of the smallest piece of bone.
_SOFT_FROM, _BONE_FROM, _SMALLEST_BONE = -30.0, 180.0, 50


def prepare_limbs(source: Path, target: Path) -> Path:
    """Write pairs to validate and test on, and ``datalist.json``.

    Args:
        source: folder with ``STS_<number>_ct``, ``_mr`` and ``_mask`` (above 0: the body), ``.nii.gz``, of a patient on
            one grid.
        target: folder for what is written, made if need be.

    Returns:
        The datalist. ``training``, ``validation_images`` and ``test_images`` have ``image``, ``subject`` and
        ``sequence``. ``validation`` and ``test`` are pairs of CT and MR of a patient, in either order, at 2 mm, the
        fixed one warped by ``RandomWarp``'s defaults: ``fixed``, ``moving``, ``truth``, ``fixed_mask`` (the body) and
        labels (``limb_tissues``).

    Raises:
        FileNotFoundError: if an image is missing.
    """
    sections: dict[str, list[dict[str, str]]] = {}
    for section, cases in (("training", TRAINING_CASES), ("validation", VALIDATION_CASES), ("test", TEST_CASES)):
        images = section if section == "training" else f"{section}_images"
        for case in tqdm(cases, desc=section):
            subject = f"STS_{case:03d}"
            paths = {key: existing(source / f"{subject}_{key}.nii.gz") for key in (*SEQUENCES, "mask")}
            sections.setdefault(images, []).extend(
                {"image": str(paths[key]), "subject": subject, "sequence": key} for key in SEQUENCES
            )
            if section != "training":
                sections.setdefault(section, []).extend(_known_pairs(subject, paths, target))
    return write_datalist(sections, target)


def _known_pairs(subject: str, paths: dict[str, Path], target: Path) -> list[dict[str, str]]:
    """Pairs of a patient, the fixed image warped."""
    patient = {key: load_image(paths[key]) for key in SEQUENCES}
    classes = limb_tissues(patient["ct"], load_label(paths["mask"]))
    body = (classes > 0).to(torch.int32)
    records = []
    for number, (fixed, moving) in enumerate(islice(cycle(ORDERS), PAIRS)):
        writer = PairWriter(target, f"{subject}_{fixed}_{moving}_{number}")
        grid = isotropic_grid(patient[fixed])
        write_warped(writer, patient[fixed], patient[moving], body, grid, RandomWarp(), classes)
        records.append(writer.record)
    return records


def limb_tissues(ct: MetaTensor, body: MetaTensor) -> MetaTensor:
    """Fat, muscle (with all other soft tissue) and bone (with its marrow) in a body; 0 outside it.

    Args:
        ct: ``(1, *spatial)``, Hounsfield units.
        body: ``(1, *spatial)``, above 0 in the body, but for what is dark in an MR; on the same grid.
    """
    values = ct.as_tensor()[0].numpy()
    pieces, _ = label(values > _BONE_FROM)
    large = np.flatnonzero(np.bincount(pieces.ravel()) >= _SMALLEST_BONE)
    bone = _filled(binary_closing(np.isin(pieces, large[large > 0])))
    inside = _filled(bone | (body.as_tensor()[0].numpy() > 0))
    soft = np.where(median_filter(values, 3) < _SOFT_FROM, FAT, MUSCLE)
    classes = np.where(bone, BONE, soft) * inside
    return MetaTensor(torch.from_numpy(classes.astype(np.int32))[None], affine=ct.affine)


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask and what it encloses in a cross-section; a long bone is open where the field of view ends."""
    filled = mask.copy()
    for axis in range(mask.ndim):
        for section in np.moveaxis(filled, axis, 0):
            section |= binary_fill_holes(section)
    return filled


DATASET = DataSet(
    "ct_mr_limbs",
    title="CT and T1 MR of one limb or pelvis, 20 patients, on one grid a patient",
    license="CC BY 3.0 (TCIA Soft-tissue-Sarcoma; Vallieres et al. 2015)",
    origin="github.com/cerr/CERR, history from 37d237e to f76e9c5, "
    "Unit_Testing/data_for_cerr_tests/IBSI2_multimodal_data/STS_*",
    prepare=prepare_limbs,
    checksums=checksums("ct_mr_limbs"),
)
