# SPDX-License-Identifier: Apache-2.0
"""T1 brains of 16 people with 138 structures, and the pairs of six of them; ``--source`` only.

The intensities were scaled (99.9th percentile to 1000, int16) over voxels that are not described.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.brain_pairs import affine_between
from regplugins.datasets.datalist import PairWriter, prepare_files
from regplugins.datasets.warped_pairs import isotropic_grid, resample_label
from regplugins.io.images import load_image, load_label
from regplugins.spatial import resample_to_grid

# Structures of Neuromorphometrics' protocol in large groups, numbered from 1 in this order. Accumbens, basal forebrain,
# optic chiasm, vessels and what is outside the brain are in none.
STRUCTURES: dict[str, tuple[int, ...]] = {
    "cerebral cortex": tuple(range(100, 208)),
    "cerebral white matter": (44, 45),
    "lateral ventricles": (49, 50, 51, 52),
    "third and fourth ventricle": (4, 11),
    "thalamus": (59, 60),
    "caudate": (36, 37),
    "putamen": (57, 58),
    "pallidum": (55, 56),
    "hippocampus": (47, 48),
    "amygdala": (31, 32),
    "brain stem and ventral diencephalon": (35, 61, 62),
    "cerebellar cortex": (38, 39, 71, 72, 73),
    "cerebellar white matter": (40, 41),
}
TRAINING_CASES = ("1002", "1006", "1011", "1012", "1014", "1023", "1025", "1039", "1110", "1128")
TEST_CASES = ("1004", "1005", "1010", "1013", "1017", "1125")
# Fractions of a T1's 99.9th percentile, and the intensities that they become: fluid is bright, white matter dark.
REMAPPING = ((0.0, 0.15, 0.3, 0.55, 0.8, 1.0), (0.0, 1.0, 0.85, 0.55, 0.3, 0.25))


def remapped_pairs(folder: Path, target: Path) -> list[dict[str, str]]:
    """Write pairs of T1 brains of two people, aligned by an affine transform, the moving one with remapped intensities.

    Returns records with ``fixed``, ``moving`` and their labels, the groups of ``STRUCTURES``.
    """
    cases = {}
    for case in TEST_CASES:
        labels = load_label(folder / f"{case}_labels.nii.gz")
        grouped = torch.zeros_like(labels)
        for number, structures in enumerate(STRUCTURES.values(), start=1):
            grouped[torch.isin(labels, torch.tensor(structures))] = number
        cases[case] = load_image(folder / f"{case}_t1.nii.gz"), grouped
    records = []
    for name, other in _ordered_pairs():
        (image, label), (moving, moving_label) = cases[name], cases[other]
        grid = isotropic_grid(image)
        affine = affine_between(image, moving)
        writer = PairWriter(target, f"{name}_t1_{other}_remapped")
        writer.image("fixed", resample_to_grid(image, grid), grid)
        writer.image("moving", remap(resample_to_grid(moving, grid, affine)), grid)
        writer.label("fixed_label", resample_label(label, grid), grid)
        writer.label("moving_label", resample_label(moving_label, grid, affine), grid)
        records.append(writer.record)
    return records


def labeled_pairs(folder: Path) -> list[dict[str, str]]:
    """Records of the same pairs as scanned: T1 both, not aligned, with all structures."""
    records = []
    for fixed, moving in _ordered_pairs():
        record = {"name": f"{fixed}_t1_{moving}_t1"}
        for side, case in (("fixed", fixed), ("moving", moving)):
            record[side] = str(folder / f"{case}_t1.nii.gz")
            record[f"{side}_label"] = str(folder / f"{case}_labels.nii.gz")
        records.append(record)
    return records


def remap(image: Tensor) -> Tensor:
    """Give a T1 of a stripped brain another contrast, by ``REMAPPING``."""
    source, goal = REMAPPING
    top = np.quantile(image[image > 0], 0.999)
    return torch.from_numpy(np.interp(image.numpy() / top, source, goal).astype(np.float32))


def _ordered_pairs() -> list[tuple[str, str]]:
    """Fixed and moving case: each with the next and the next but one."""
    return [(case, TEST_CASES[(k + step) % len(TEST_CASES)]) for k, case in enumerate(TEST_CASES) for step in (1, 2)]


DATASET = DataSet(
    name="brain_t1_labels",
    title="T1 MR of 16 brains, skull-stripped, 138 structures labeled",
    license="CC BY-NC (OASIS scans, Neuromorphometrics labels; MICCAI 2012 challenge), credit both",
    origin="github.com/muschellij2/malf.templates at 0d955ca7, inst/extdata/<id>_SS.nii.gz and <id>_glm.nii.gz",
    prepare=prepare_files(
        {
            "training": [{"image": f"{case}_t1.nii.gz", "label": f"{case}_labels.nii.gz"} for case in TRAINING_CASES],
            "test": labeled_pairs(Path()),
        }
    ),
    checksums=checksums("brain_t1_labels"),
)
