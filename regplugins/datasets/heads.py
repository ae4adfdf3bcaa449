# SPDX-License-Identifier: Apache-2.0
"""Whole heads in CT and MR: aligned ones to learn rigid registration from, moved ones to test it on, and single ones to
tell modalities apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import torch
from monai.data import MetaTensor
from scipy.ndimage import binary_fill_holes
from torch import Tensor
from tqdm import tqdm

from regplugins.data.random_warps import RandomWarp
from regplugins.datasets.made_heads import FLUID, GRAY, WHITE, make_heads, tissue_map
from regplugins.datasets.pair_writer import PairWriter
from regplugins.io import atomic, write_transform
from regplugins.io.images import load_image
from regplugins.registration import otsu_threshold
from regplugins.spatial import Grid, resample_labels, resample_to_grid

FIXED_SEQUENCES = ("t1", "t2", "pd")
MOVING_SEQUENCE = "ct"

# By the largest angle about a random axis, degrees, the largest shift along each axis, mm; the first is the paper's.
MOTIONS = {15: 5.0, 45: 20.0, 90: 40.0}
VALIDATION_MOTIONS = (15, 45)
PAIRS, VALIDATION_PAIRS = 24, 9
# What makes of the templates other heads, the two modalities alike.
SHAPES = RandomWarp(8.0, rotation=0.0, translation=0.0, scaling=0.1)
# A cube that holds a head however it is turned, voxels of SPACING mm.
SPACING, ROOM = 2.0, 130

# Heads by their modality, and which of them a modality is learned from and which are new: of so few none is left to
# choose epochs by. All of one person, or of one population, are on one side.
MODALITIES: dict[str, dict[str, tuple[str, ...]]] = {
    "modality_training": {
        "CT": ("templates/ct", "heads/ct_template", "heads/ct_pitch"),
        "MR": (
            *("templates/t1", "templates/t2", "templates/pd", "templates/flair"),
            *("heads/mr_t1_chris", "heads/mr_pd_chris", "heads/mr_t1_niivue"),
        ),
    },
    "modality_test": {
        "CT": ("heads/ct_cranium", "head_ct_mr_phantom/ct"),
        "MR": ("heads/mr_t1_colin27", "heads/mr_t1_datalad", "heads/mr_t2_niivue", "head_ct_mr_phantom/mr_t2"),
    },
}
# So many heads of each modality are made besides, of the templates' tissues, and as many blocks of tissue; bone is what
# is at least so dense in their CT.
MADE = 40
BONE_FROM = 3000.0
BRAIN = {FLUID: "csf", GRAY: "gray", WHITE: "white"}
# Fixed and moving image of pairs without a known truth: of one head in two scanners, and of two people.
REAL_PAIRS = {
    "phantom": ("head_ct_mr_phantom/mr_t2", "head_ct_mr_phantom/ct"),
    "between": ("heads/mr_t1_colin27", "heads/ct_cranium"),
}


def prepare_heads(source: str | Path, target: str | Path) -> Path:
    """Write moved pairs to validate and test on, and ``datalist.json``.

    Args:
        source: folder with ``templates/`` (``t1``, ``t2``, ``pd``, ``flair``, ``ct`` and the probabilities times 1000
            of ``gray``, ``white`` and ``csf``, on one grid), ``heads/`` and ``head_ct_mr_phantom/``, ``.nii.gz``, see
            ``MODALITIES``.
        target: folder for what is written, made if need be.

    Returns:
        The datalist. ``training``: the templates, records with ``image``, ``subject`` and ``sequence``. ``test_15``,
        ``test_45`` and ``test_90``, ``validation_15`` and ``validation_45``: pairs of a warped template's MR, fixed,
        and its CT, moving, turned by up to so many degrees and shifted (``MOTIONS``), with ``truth`` and
        ``fixed_mask``, the head. ``phantom`` and ``between``: one pair each, without a truth. ``modality_training``
        and ``modality_test``: records with ``image``, ``modality``, "CT" or "MR", and ``kind``,
        "scan"; to learn from are made heads and blocks of tissue, too (``make_heads``).

    Raises:
        FileNotFoundError: a folder or image is missing.
    """
    source, target = Path(source).resolve(), Path(target).resolve()
    for folder in ("templates", "heads", "head_ct_mr_phantom"):
        if not (source / folder).is_dir():
            raise FileNotFoundError(f"{source / folder}: no such folder")

    def path(name: str) -> str:
        file = source / f"{name}.nii.gz"
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file")
        return str(file)

    names = (*FIXED_SEQUENCES, MOVING_SEQUENCE)
    files = {name: path(f"templates/{name}") for name in names}
    templates = {name: load_image(file) for name, file in files.items()}
    sections: dict[str, list[dict[str, str]]] = {
        "training": [{"image": file, "subject": "templates", "sequence": name} for name, file in files.items()]
    }
    wanted = {f"test_{degrees}": (degrees, PAIRS) for degrees in MOTIONS}
    wanted |= {f"validation_{degrees}": (degrees, VALIDATION_PAIRS) for degrees in VALIDATION_MOTIONS}
    for section, (degrees, count) in tqdm(wanted.items(), desc="moving heads"):
        sections[section] = _moved_pairs(section, degrees, count, templates, target)
    for name, (fixed, moving) in REAL_PAIRS.items():
        sections[name] = [{"name": name, "fixed": path(fixed), "moving": path(moving)}]
    for section, heads in MODALITIES.items():
        sections[section] = [
            {"image": path(name), "modality": modality, "kind": "scan"}
            for modality, images in heads.items()
            for name in images
        ]
    ct = templates[MOVING_SEQUENCE]
    brain = {tissue: load_image(path(f"templates/{name}")).as_tensor() > 500 for tissue, name in BRAIN.items()}
    tissues = tissue_map(ct, head_mask(ct), BONE_FROM, brain)
    sections["modality_training"] += make_heads(tissues, Grid.from_image(ct), MADE, target)
    target.mkdir(parents=True, exist_ok=True)
    with atomic(target / "datalist.json") as temporary:
        temporary.write_text(json.dumps(sections, indent=2) + "\n", encoding="utf-8")
    return target / "datalist.json"


def _moved_pairs(
    section: str, degrees: int, count: int, templates: Mapping[str, MetaTensor], target: Path
) -> list[dict[str, str]]:
    """Pairs whose name is their seed."""
    ct = templates[MOVING_SEQUENCE]
    own = Grid.from_image(ct)
    grid = own.canonical().resized([SPACING] * 3)
    room = grid.resized([SPACING] * 3, [ROOM] * 3)
    head = head_mask(ct)
    records = []
    for number in range(count):
        sequence = FIXED_SEQUENCES[number % len(FIXED_SEQUENCES)]
        writer = PairWriter(target, f"{section}_{sequence}_{number}")
        seed = crc32(writer.folder.name.encode())
        shape = SHAPES.set_random_state(seed=seed)(grid).sample(grid)
        source = RandomWarp(0.0, rotation=degrees, translation=MOTIONS[degrees], scaling=0.0)
        motion = source.set_random_state(seed=seed).affine(grid)
        writer.image("fixed", resample_to_grid(templates[sequence], grid, shape), grid)
        writer.image("moving", resample_to_grid(ct, room, shape @ motion.inverse()), room)
        writer.label("fixed_mask", resample_labels(head, own, grid, shape), grid)
        write_transform(motion, writer.path("truth", ".mat"))
        records.append(writer.record)
    return records


def head_mask(ct: MetaTensor) -> Tensor:
    """What of a CT ``(1, *spatial)`` is not the air about it, int32."""
    tissue = ct.as_tensor() > otsu_threshold(ct.as_tensor())
    return torch.from_numpy(binary_fill_holes(tissue[0].numpy())).to(torch.int32)[None]
