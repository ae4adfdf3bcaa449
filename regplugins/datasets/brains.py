# SPDX-License-Identifier: Apache-2.0
"""Stripped brains in several sequences: training images on one grid, and pairs to evaluate on; ``--source`` only.

The published images were cropped and scaled in ways that are not fully described.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from monai.data import MetaTensor
from tqdm import tqdm

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.brain_contrasts import contrast_records
from regplugins.datasets.brain_pairs import (
    affine_between,
    brain_tissues,
    known_pairs,
    pairs_between,
    pairs_with_landmarks,
    strong_slices,
    strong_volumes,
)
from regplugins.datasets.brain_t1_labels import labeled_pairs, remapped_pairs
from regplugins.datasets.datalist import write_datalist
from regplugins.datasets.warped_pairs import SPACING
from regplugins.io import write_image
from regplugins.io.images import load_image, load_label
from regplugins.spatial import Grid, resample_to_grid

# Voxels of the training images' grid in the templates' world: a brain and a margin.
TRAINING_SHAPE = (80, 96, 80)

# Patients that the shipped weights have never seen, and one that chose among training runs. All others train. The two
# scans of BraTSReg_002 are of one patient.
TEST_CASES = ("BraTSReg_002_00", "BraTSReg_002_01", "brats_2013_pat0005_1")
VALIDATION_CASES = ("brats_2013_pat0004_1",)

# Names of masks here, and in the data set's files.
MASKS = {"brainmask": "brainmask", "tumor": "tumour"}
SEQUENCES = ("t1", "t1c", "t2", "flair")
TEMPLATES = {"t1": "t1", "t2": "t2", "pd": "pd", "flair": "flair", "ct": "ct_stripped"}
_TISSUES = ("grey", "white", "csf")


def prepare_brains(source: str | Path, target: str | Path) -> Path:
    """Write training images, pairs to validate and test on, and ``datalist.json``.

    Args:
        source: folder with ``brain_multiseq/<case>/`` (each with ``brainmask``, two or more of ``t1``, ``t1c``, ``t2``
            and ``flair`` and optionally ``tumour``, on one grid, ``.nii.gz``; ``landmarks_lps.csv`` in
            ``BraTSReg_002_00`` and ``_01``), ``templates/`` (``t1``, ``t2``, ``pd``, ``flair``, ``ct_stripped`` and the
            probabilities times 1000 of ``grey``, ``white`` and ``csf``, and ``ct`` with its skull, on one grid) and
            optionally ``brain_t1_labels/`` (``<id>_t1`` and ``<id>_labels``, numbered as Neuromorphometrics does) and
            ``label_maps/``.
        target: folder for what is written, made if need be.

    Returns:
        The datalist. ``training`` and ``validation_images`` are records with ``image``, ``subject`` and ``sequence``:
        images on one grid of 2 mm, patients aligned with the templates by an affine transform. ``contrasts`` has the
        training images and label maps on that grid (see ``regplugins.datasets.brain_contrasts``). All other sections
        are pairs at 2 mm (see ``regplugins.datasets.brain_pairs``). ``validation`` and ``test`` have a known truth,
        ``between`` tissue classes, ``followup`` landmarks, ``remapped`` anatomical labels. ``labeled`` names the
        source's own files. ``strong`` and ``slices`` (test patients), ``strong_validation`` and ``slices_validation``
        have a known truth with a large affine part and tissue classes, T1c to FLAIR. ``slices_t1_t2`` is T1 to T2.

    Raises:
        FileNotFoundError: if a folder or image is missing.
    """
    source, target = Path(source), Path(target).resolve()
    for name in ("brain_multiseq", "templates", *(f"brain_multiseq/{case}" for case in TEST_CASES + VALIDATION_CASES)):
        if not (source / name).is_dir():
            raise FileNotFoundError(f"{source / name}: no such folder")
    templates = load_templates(source / "templates")
    common = Grid.from_image(templates["t1"]).canonical().resized([SPACING] * 3, TRAINING_SHAPE)
    (target / "images").mkdir(parents=True, exist_ok=True)
    training, tests = training_images("template", templates, templates, common, target), {}
    sections: dict[str, list[dict[str, str]]] = {
        "training": training,
        "validation_images": [],
        "validation": [],
        "test": [],
    }
    folders = sorted(folder for folder in (source / "brain_multiseq").iterdir() if folder.is_dir())
    for folder in tqdm(folders, desc="patients"):
        patient, name = load_patient(folder), folder.name
        if name in TEST_CASES:
            sections["test"] += known_pairs(name, patient, target)
            tests[name], suffix = patient, ""
        elif name in VALIDATION_CASES:
            sections["validation"] += known_pairs(name, patient, target)
            sections["validation_images"] += training_images(name, patient, templates, common, target)
            suffix = "_validation"
        else:
            training += training_images(name, patient, templates, common, target)
            continue
        classes = brain_tissues(patient)
        for kind, records in (
            ("strong", strong_volumes(name, patient, classes, target)),
            ("slices", strong_slices(name, patient, classes, target)),
        ):
            sections.setdefault(kind + suffix, []).extend(records)
        if not suffix and {"t1", "t2"} <= patient.keys():
            records = strong_slices(name, patient, classes, target, ("t2", "t1"))
            sections.setdefault("slices_t1_t2", []).extend(records)
    ct_and_t1 = {key: templates[key] for key in ("t1", "ct", "brainmask")}
    for section in ("validation", "test"):
        sections[section] += known_pairs(f"template_{section}", ct_and_t1, target)
    sections["between"] = pairs_between(tests, target)
    sections["followup"] = pairs_with_landmarks(source / "brain_multiseq", tests, target)
    if (source / "brain_t1_labels").is_dir():
        folder = (source / "brain_t1_labels").resolve()
        sections |= {"remapped": remapped_pairs(folder, target), "labeled": labeled_pairs(folder)}
    sections["contrasts"] = contrast_records(source, templates, training, common, target)
    return write_datalist(sections, target)


def load_patient(folder: Path) -> dict[str, MetaTensor]:
    """Load two or more sequences, ``brainmask`` and perhaps ``tumor``; ``FileNotFoundError`` if there are fewer."""
    paths = {name: folder / f"{name}.nii.gz" for name in SEQUENCES if (folder / f"{name}.nii.gz").is_file()}
    if len(paths) < 2:
        raise FileNotFoundError(f"{folder}: two of {SEQUENCES} expected, found {sorted(paths)}")
    images = {name: load_image(path) for name, path in paths.items()}
    masks = {name: folder / f"{file}.nii.gz" for name, file in MASKS.items()}
    return images | {name: load_label(path) for name, path in masks.items() if name == "brainmask" or path.is_file()}


def load_templates(folder: Path) -> dict[str, MetaTensor]:
    """Load the templates without their skulls, and ``brainmask``: brain or fluid with a probability above one half."""
    mask = sum(load_image(folder / f"{name}.nii.gz") for name in _TISSUES) > 500
    images = {name: load_image(folder / f"{file}.nii.gz") for name, file in TEMPLATES.items()}
    # The darkest tissue becomes as dark as the background, as in patients: tissue is a tenth of the CT's range.
    stripped = {name: (image - image[mask].quantile(0.01)).clamp(min=0) * mask for name, image in images.items()}
    return stripped | {"brainmask": mask.to(torch.int32)}


def training_images(
    subject: str,
    images: Mapping[str, MetaTensor],
    templates: Mapping[str, MetaTensor],
    common: Grid,
    target: Path,
) -> list[dict[str, str]]:
    """Resample a subject's sequences to the common grid, aligned affinely with the templates' T1; their records."""
    sequences = [name for name in images if name not in MASKS]
    transform = None
    if images is not templates:
        reference = images["t1c"] if "t1c" in images else images[sequences[0]]
        transform = affine_between(templates["t1"], reference)
    records = []
    for sequence in sequences:
        path = target / "images" / f"{subject}_{sequence}.nii.gz"
        write_image(resample_to_grid(images[sequence], common, transform), common, path)
        records.append({"image": str(path.relative_to(target)), "subject": subject, "sequence": sequence})
    return records


DATASET = DataSet(
    name="brains",
    title="brains of eight patients in several MR sequences, templates, and T1 brains with labels",
    license="CC BY-NC-SA (BraTS), CC BY 3.0 (TCGA-DU-7294), CC BY-NC (brain_t1_labels), GPL-2 and BSD-2 (templates), "
    "column terms of maps.csv (label_maps)",
    origin="github.com/deepmedic/deepmedic at e10ba7c3, BrainLesion/tutorials at a2d3fffe, cwmok/DIRAC at 817df0f3 "
    "(brain_multiseq), muschellij2/malf.templates at 0d955ca7 (brain_t1_labels), spm/spm12 at f6948fff and "
    "neurolabusc/Clinical at 2189c744 (templates)",
    prepare=prepare_brains,
    checksums=checksums("brain_multiseq", "templates", "brain_t1_labels", "label_maps"),
)
