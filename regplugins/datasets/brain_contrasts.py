# SPDX-License-Identifier: Apache-2.0
"""Images and label maps of brains and other shapes on one grid, to train on in random contrasts."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor
from tqdm import tqdm

from regplugins.data.contrast import AIR, BONE, FLUID, GRAY, MARROW, SCALP, SOFT, STRUCTURE, UNKNOWN, WHITE
from regplugins.datasets.brain_pairs import affine_between
from regplugins.datasets.brain_t1_labels import STRUCTURES, TRAINING_CASES
from regplugins.datasets.heads import BONE_FROM, BRAIN, head_mask
from regplugins.datasets.synthetic_heads import tissue_map
from regplugins.io import write_image
from regplugins.io.files import existing
from regplugins.io.images import load_image, load_label
from regplugins.spatial import AffineTransform, Grid, SpatialTransform, resample_labels, resample_to_grid

# Subjects of this family are aligned, and pairs of two people are among them.
HUMAN = "human brain"
# Tissue of each group of structures.
_TISSUES = {name: GRAY for name in STRUCTURES} | {
    **dict.fromkeys(("cerebral white matter", "cerebellar white matter"), WHITE),
    **dict.fromkeys(("pallidum", "brain stem and ventral diencephalon"), WHITE),
    **dict.fromkeys(("lateral ventricles", "third and fourth ventricle"), FLUID),
}
# Label maps that are used, by the start of their name: brains, and bodies with skin, fat and bone. Those of the second
# entry are of one kind of brain.
_MAPS = ("brain_ct_atlas", "head_", "limb_", "mouse_brain_")
_FAMILIES = {"mouse_brain_P": "mouse brain"}
_NAMES = {"air or gas": AIR, "fat": SCALP, "soft tissue": SOFT, "bone": BONE, "marrow": MARROW, "tumour": SOFT}
# Fraction of the grid that a shape other than a human brain fills along its longest axis.
_FILLED = 0.85


def contrast_records(
    source: Path,
    templates: Mapping[str, MetaTensor],
    training: list[dict[str, str]],
    common: Grid,
    target: Path,
) -> list[dict[str, str]]:
    """Write images and label maps to train on in random contrasts, all on one grid.

    Args:
        source: folder of ``prepare_brains``, optionally with ``label_maps/``, of which maps for any use ("free") of
            brains, heads and limbs are taken.
        templates: as ``load_templates`` gives them.
        training: records of the training images, which are used, too.
        common: grid of all files.
        target: folder of the datalist; files go into ``images`` below it.

    Returns:
        Records with ``image`` or ``label_map``, ``subject``, ``sequence`` and ``family``, for
        ``regplugins.data.ContrastPairDataset``.
    """
    folder = target / "images"
    records = [record | {"family": HUMAN} for record in training]
    records += _templates(source, templates, common, folder)
    if (source / "brain_t1_labels").is_dir():
        records += _people(source / "brain_t1_labels", templates, common, folder)
    if (source / "label_maps").is_dir():
        records += _shapes(source / "label_maps", common, folder)
    return records


def _templates(source: Path, templates: Mapping[str, MetaTensor], common: Grid, folder: Path) -> list[dict[str, str]]:
    """Tissues of the templates' brain, and of their head with skin, fat and bone."""
    brain = {tissue: load_image(source / f"templates/{name}.nii.gz") > 500 for tissue, name in BRAIN.items()}
    ct = load_image(source / "templates/ct.nii.gz")
    own = Grid.from_image(ct)
    head = tissue_map(ct, head_mask(ct), BONE_FROM, {tissue: mask.as_tensor() for tissue, mask in brain.items()})
    inside = templates["brainmask"].as_tensor() > 0
    stripped = torch.where(inside, torch.full_like(head, FLUID), 0)
    for tissue, mask in brain.items():
        stripped[mask.as_tensor() & inside] = tissue
    return [
        _write_map(stripped, own, None, "template", "tissues", HUMAN, common, folder),
        _write_map(head, own, _fit(own, common), "head_template", "labels", "head_template", common, folder),
    ]


def _people(source: Path, templates: Mapping[str, MetaTensor], common: Grid, folder: Path) -> list[dict[str, str]]:
    """T1 brains and their structures, aligned affinely with the templates' T1."""
    tissues = torch.full((STRUCTURE * STRUCTURE,), UNKNOWN)
    for name, structures in STRUCTURES.items():
        tissues[list(structures)] = _TISSUES[name]
    records = []
    for case in tqdm(TRAINING_CASES, desc="labeled brains"):
        image, labels = load_image(source / f"{case}_t1.nii.gz"), load_label(source / f"{case}_labels.nii.gz")
        transform = affine_between(templates["t1"], image)
        path = folder / f"{case}_t1.nii.gz"
        write_image(resample_to_grid(image, common, transform), common, path)
        name = str(path.relative_to(folder.parent))
        records.append({"image": name, "subject": case, "sequence": "t1", "family": HUMAN})
        known = labels.as_tensor().long()
        numbers = STRUCTURE * known + tissues[known]
        # The fluid around a brain is no structure.
        numbers[known == 0] = torch.where(image.as_tensor() > 0, FLUID, AIR)[known == 0]
        own = Grid.from_image(labels)
        records.append(_write_map(numbers, own, transform, case, "structures", HUMAN, common, folder))
    return records


def _shapes(source: Path, common: Grid, folder: Path) -> list[dict[str, str]]:
    """Label maps for any use, scaled to the size of a brain."""
    with existing(source / "maps.csv").open(newline="", encoding="utf-8") as file:
        free = [row["file"] for row in csv.DictReader(file) if row["use"] == "free"]
    with existing(source / "labels.csv").open(newline="", encoding="utf-8") as file:
        names = {(row["file"], int(row["value"])): row["name"] for row in csv.DictReader(file)}
    records = []
    for name in filter(lambda file: file.startswith(_MAPS), free):
        labels = load_label(source / f"{name}.nii.gz")
        table = [AIR] + [
            _NAMES.get(names[name, label], STRUCTURE * label + UNKNOWN) for label in range(1, int(labels.max()) + 1)
        ]
        numbers = torch.tensor(table)[labels.as_tensor().long()]
        family = next((family for start, family in _FAMILIES.items() if name.startswith(start)), name)
        own = Grid.from_image(labels)
        records.append(_write_map(numbers, own, _fit(own, common), name, "labels", family, common, folder))
    return records


def _fit(own: Grid, common: Grid) -> AffineTransform:
    """Map from the common grid's world to that of another, which it then shows in the size of a brain."""
    sizes = [torch.tensor(grid.canonical().shape) * grid.canonical().spacing for grid in (own, common)]
    matrix = torch.eye(common.ndim + 1, dtype=torch.float64)
    matrix[:-1, :-1] *= float((sizes[0] / sizes[1]).max()) / _FILLED
    matrix[:-1, -1] = own.center - matrix[:-1, :-1] @ common.center
    return AffineTransform(matrix)


def _write_map(
    numbers: Tensor,
    own: Grid,
    transform: SpatialTransform | None,
    subject: str,
    sequence: str,
    family: str,
    common: Grid,
    folder: Path,
) -> dict[str, str]:
    """Resample a label map to the common grid and write it; its record."""
    path = folder / f"{subject}_{sequence}.nii.gz"
    write_image(resample_labels(numbers.to(torch.int32), own, common, transform), common, path, np.int16)
    name = str(path.relative_to(folder.parent))
    return {"label_map": name, "subject": subject, "sequence": sequence, "family": family}
