# SPDX-License-Identifier: Apache-2.0
"""Whole heads in CT and MR, to train and test rigid registration and modality classification; ``--source`` only.

Templates and phantom were resampled or rescaled in ways that are not fully described.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from zlib import crc32

import torch
from monai.data import MetaTensor
from scipy.ndimage import binary_fill_holes
from torch import Tensor
from tqdm import tqdm

from regplugins.data.random_warps import RandomWarp
from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import PairWriter, write_datalist
from regplugins.datasets.synthetic_heads import FLUID, GRAY, WHITE, tissue_map, write_synthetic_heads
from regplugins.io import write_transform
from regplugins.io.files import existing
from regplugins.io.images import load_image
from regplugins.registration import otsu_threshold
from regplugins.spatial import Grid, resample_labels, resample_to_grid

FIXED_SEQUENCES = ("t1", "t2", "pd")
MOVING_SEQUENCE = "ct"

# Largest angle about a random axis, degrees: largest shift along each axis, mm. The first is the paper's.
MOTIONS = {15: 5.0, 45: 20.0, 90: 40.0}
PAIRS, VALIDATION_PAIRS = 24, 9
# Warps that turn the templates into other heads, the two modalities alike.
SHAPES = RandomWarp(8.0, rotation=0.0, translation=0.0, scaling=0.1)
# Voxels of SPACING mm along a cube that holds a head in any rotation.
SPACING, ROOM = 2.0, 130

# Heads to train and to test a modality classifier with; there are too few for a validation set. All heads of one
# person, or of one population, are on one side.
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
# Number of synthetic heads, and of blocks of tissue, for each modality; least value of bone in the templates' CT.
SYNTHETIC = 40
BONE_FROM = 3000.0
BRAIN = {FLUID: "csf", GRAY: "grey", WHITE: "white"}
# Fixed and moving image of pairs without a known truth: one head in two scanners, and two people.
REAL_PAIRS = {
    "phantom": ("head_ct_mr_phantom/mr_t2", "head_ct_mr_phantom/ct"),
    "between": ("heads/mr_t1_colin27", "heads/ct_cranium"),
}


def prepare_heads(source: str | Path, target: str | Path) -> Path:
    """Write moved pairs to validate and test on, and ``datalist.json``.

    Args:
        source: folder with ``templates/`` (``t1``, ``t2``, ``pd``, ``flair``, ``ct`` and the probabilities times 1000
            of ``grey``, ``white`` and ``csf``, on one grid), ``heads/`` and ``head_ct_mr_phantom/``, ``.nii.gz``, see
            ``MODALITIES``.
        target: folder for what is written, made if need be.

    Returns:
        The datalist. ``training`` lists the templates with ``image``, ``subject`` and ``sequence``. ``test_<degrees>``
        and ``validation_<degrees>`` are pairs of a warped template's MR (fixed) and its CT (moving). The CT is rotated
        by up to so many degrees and shifted (``MOTIONS``). Their records have ``truth`` and ``fixed_mask``, the head.
        ``phantom`` and ``between`` hold one pair each, without a truth. ``modality_training`` and ``modality_test``
        have ``image``, ``modality`` ("CT" or "MR") and ``kind`` ("scan"). The former has synthetic heads and blocks of
        tissue, too (``write_synthetic_heads``).

    Raises:
        FileNotFoundError: if a folder or image is missing.
    """
    source, target = Path(source).resolve(), Path(target).resolve()
    for folder in ("templates", "heads", "head_ct_mr_phantom"):
        if not (source / folder).is_dir():
            raise FileNotFoundError(f"{source / folder}: no such folder")

    def path(name: str) -> str:
        return str(existing(source / f"{name}.nii.gz"))

    names = (*FIXED_SEQUENCES, MOVING_SEQUENCE)
    files = {name: path(f"templates/{name}") for name in names}
    templates = {name: load_image(file) for name, file in files.items()}
    sections: dict[str, list[dict[str, str]]] = {
        "training": [{"image": file, "subject": "templates", "sequence": name} for name, file in files.items()]
    }
    counts = {"test": PAIRS, "validation": VALIDATION_PAIRS}
    for use, degrees in tqdm(list(product(counts, MOTIONS)), desc="moved heads"):
        section = f"{use}_{degrees}"
        sections[section] = _moved_pairs(section, degrees, counts[use], templates, target)
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
    sections["modality_training"] += write_synthetic_heads(tissues, Grid.from_image(ct), SYNTHETIC, target)
    return write_datalist(sections, target)


def _moved_pairs(
    section: str, degrees: int, count: int, templates: Mapping[str, MetaTensor], target: Path
) -> list[dict[str, str]]:
    """Write pairs with a known rigid motion; the seed is the CRC of a pair's name."""
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
    """Mask of the head in a CT ``(1, *spatial)``, without holes, int32 of the same shape."""
    tissue = ct.as_tensor() > otsu_threshold(ct.as_tensor())
    return torch.from_numpy(binary_fill_holes(tissue[0].numpy())).to(torch.int32)[None]


DATASET = DataSet(
    name="heads",
    title="templates of the head in CT and MR, nine heads, and a phantom",
    license="GPL-2, BSD-2 (templates), GPL-2, BSD-2, CC BY-NC, public domain, Colin27 (heads), CC BY 4.0 (phantom)",
    origin="github.com/spm/spm12 at f6948fff and neurolabusc/Clinical at 2189c744 (templates), niivue's sample images, "
    "Debian invesalius-examples and mricron-data, datalad's example (heads), TCIA MRI-DIR (head_ct_mr_phantom)",
    prepare=prepare_heads,
    checksums=checksums("templates", "heads", "head_ct_mr_phantom"),
)
