# SPDX-License-Identifier: Apache-2.0
"""Pairs of brains at 2 mm by which a registration is judged: by a known warp, tissue classes, landmarks or labels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle, islice, permutations
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from monai.data import MetaTensor
from scipy.cluster.vq import kmeans2
from torch import Tensor

from regplugins.data.random_warps import RandomWarp
from regplugins.datasets.pair_writer import PairWriter
from regplugins.io import read_landmarks, write_displacement, write_landmarks
from regplugins.io.images import load_image, load_label
from regplugins.registration import initial_transform
from regplugins.spatial import Grid, SpatialTransform, resample_labels, resample_to_grid

SPACING = 2.0

# Fixed and moving sequence of the pairs with known truth; a brain gives KNOWN_PAIRS of them.
KNOWN_ORDERS = (
    *(("t1", "t2"), ("t2", "t1"), ("t1", "flair"), ("flair", "t1c"), ("t1c", "flair"), ("t2", "flair")),
    *(("ct", "t1"), ("t1", "ct")),
)
KNOWN_PAIRS = 6

# A warp for methods that find the affine part too, and how much room about a brain keeps it in sight, mm; a brain gives
# so many pairs of volumes and of slices.
STRONG = RandomWarp(10.0, (32.0, 64.0), 15.0, 16.0, 0.12)
STRONG_ROOM = 24.0
STRONG_PAIRS = 6
STRONG_SLICES = 12

# Fixed and moving sequence of the pairs of two patients, and of one patient at two times.
BETWEEN_ORDERS = (("t1c", "t2"), ("t2", "t1c"), ("t1c", "flair"), ("flair", "t1c"), ("flair", "t1"), ("t1", "flair"))
FOLLOWUP = ("BraTSReg_002_00", "BraTSReg_002_01")
FOLLOWUP_ORDERS = (("t1", "t2"), ("t2", "t1"), ("t1c", "flair"), ("flair", "t1c"))

# Structures of Neuromorphometrics' protocol in large groups, numbered from 1 in this order; accumbens, basal forebrain,
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
LABELED_TEST_CASES = ("1004", "1005", "1010", "1013", "1017", "1125")
# Where a T1's intensities, as fractions of the 99.9th percentile, go: fluid becomes bright, white matter dark.
REMAPPING = ((0.0, 0.15, 0.3, 0.55, 0.8, 1.0), (0.0, 1.0, 0.85, 0.55, 0.3, 0.25))


def known_pairs(name: str, images: Mapping[str, MetaTensor], target: Path) -> list[dict[str, str]]:
    """Pairs of different sequences of one brain, the fixed one warped by ``RandomWarp``'s defaults.

    The warp is given on the fixed grid and linear between its voxels, so that the file holds all of it; the name of a
    pair is its seed.

    Args:
        name: of the subject.
        images: sequences and ``brainmask`` on one grid.
        target: files go into ``pairs/<pair>`` below it.

    Returns:
        Records with ``fixed``, ``moving``, ``truth`` and ``fixed_mask``, the brain.
    """
    orders = cycle(order for order in KNOWN_ORDERS if set(order) <= images.keys())
    records = []
    for number, (fixed, moving) in enumerate(islice(orders, KNOWN_PAIRS)):
        writer = PairWriter(target, f"{name}_{fixed}_{moving}_{number}")
        grid = _test_grid(images[fixed])
        write_warped(writer, images[fixed], images[moving], images["brainmask"], grid, RandomWarp())
        records.append(writer.record)
    return records


def strong_volumes(
    name: str, images: Mapping[str, MetaTensor], classes: MetaTensor, target: Path
) -> list[dict[str, str]]:
    """``STRONG_PAIRS`` pairs of FLAIR, fixed, and the contrast-enhanced T1, moving, of one brain, the fixed one warped
    by ``STRONG``.

    Args:
        name: of the subject.
        images: ``flair``, ``t1c`` and masks on one grid.
        classes: of tissue, on the same grid, see ``tissue_classes``.
        target: files go into ``pairs/<pair>`` below it.

    Returns:
        Records with ``fixed``, ``moving``, ``truth``, ``fixed_mask``, and as labels the classes.
    """
    grid = _roomy_grid(images)
    volumes = []
    for number in range(STRONG_PAIRS):
        writer = PairWriter(target, f"{name}_strong_{number}")
        write_warped(writer, images["flair"], images["t1c"], images["brainmask"], grid, STRONG, classes)
        volumes.append(writer.record)
    return volumes


def strong_slices(
    name: str,
    images: Mapping[str, MetaTensor],
    classes: MetaTensor,
    target: Path,
    order: tuple[str, str] = ("flair", "t1c"),
) -> list[dict[str, str]]:
    """``STRONG_SLICES`` pairs of axial slices, made as ``strong_volumes`` makes volumes.

    Args:
        name: of the subject.
        images: both sequences, ``flair`` and masks on one grid.
        classes: of tissue, likewise.
        target: files go into ``pairs/<pair>`` below it.
        order: fixed and moving sequence.
    """
    grid = _roomy_grid(images)
    both = [resample_to_grid(images[sequence], grid) for sequence in order]
    mask, tissue = (_label_onto(labels, grid) for labels in (images["brainmask"], classes))
    occupied = mask[0].any(dim=1).any(dim=0).nonzero().flatten()
    low, high = (occupied.double().quantile(share) for share in (0.3, 0.75))
    plane = Grid(grid.shape[:2], torch.diag(torch.tensor([SPACING, SPACING, 1.0], dtype=torch.float64)))
    if order != ("flair", "t1c"):
        name = "_".join((name, *order))
    slices = []
    for k in torch.linspace(float(low), float(high), STRONG_SLICES).round().int().tolist():
        cut = [MetaTensor(volume[..., k], affine=plane.affine) for volume in (*both, mask, tissue)]
        writer = PairWriter(target, f"{name}_slice_{k}")
        write_warped(writer, cut[0], cut[1], cut[2], plane, STRONG, cut[3])
        slices.append(writer.record)
    return slices


def _roomy_grid(images: Mapping[str, MetaTensor]) -> Grid:
    """About a brain, with room for what ``STRONG`` does."""
    box = Grid.from_image(images["flair"]).canonical()
    extent = torch.tensor(box.shape) * box.spacing + 2 * STRONG_ROOM
    return box.resized([SPACING] * 3, (extent / SPACING).round().int().tolist())


def write_warped(
    writer: PairWriter,
    fixed: MetaTensor,
    moving: MetaTensor,
    mask: MetaTensor,
    grid: Grid,
    warp: RandomWarp,
    classes: MetaTensor | None = None,
) -> None:
    """Write a pair on a grid, the fixed image under a map that the pair's name is the seed of.

    Args:
        writer: of the pair; its record gets ``fixed``, ``moving``, ``fixed_mask``, ``truth`` and, with classes,
            ``fixed_label`` and ``moving_label``.
        fixed: before the warp, ``(1, *spatial)``, in the same world as the moving one.
        moving: likewise.
        mask: of the fixed image, before the warp.
        grid: of all that is written.
        warp: what the map is drawn from.
        classes: labels of both.
    """
    truth = warp.set_random_state(seed=crc32(writer.folder.name.encode()))(grid).sample(grid)
    writer.image("fixed", resample_to_grid(fixed, grid, truth), grid)
    writer.image("moving", resample_to_grid(moving, grid), grid)
    writer.label("fixed_mask", _label_onto(mask, grid, truth), grid)
    if classes is not None:
        writer.label("fixed_label", _label_onto(classes, grid, truth), grid)
        writer.label("moving_label", _label_onto(classes, grid), grid)
    write_displacement(truth, writer.path("truth"))


def pairs_between(patients: Mapping[str, Mapping[str, MetaTensor]], target: Path) -> list[dict[str, str]]:
    """Pairs of different sequences of two patients, the moving one brought to the fixed one by an affine transform.

    The labels are tissue classes, tumour left out: 1 fluid, 2 gray, 3 white matter (see ``tissue_classes``).

    Args:
        patients: sequences and masks of each.
        target: files go into ``pairs/<pair>`` below it.

    Returns:
        Records with ``fixed``, ``moving`` and their labels.
    """
    records = []
    classes = {name: tissue_classes(images) for name, images in patients.items()}
    for (name, fixed_images), (other, moving_images) in permutations(patients.items(), 2):
        if {name, other} == set(FOLLOWUP):
            continue
        grid = _test_grid(fixed_images["t1c"])
        affine = _affine(fixed_images["t1c"], moving_images["t1c"])
        for fixed, moving in BETWEEN_ORDERS:
            if fixed in fixed_images and moving in moving_images:
                writer = PairWriter(target, f"{name}_{fixed}_{other}_{moving}")
                writer.image("fixed", resample_to_grid(fixed_images[fixed], grid), grid)
                writer.image("moving", resample_to_grid(moving_images[moving], grid, affine), grid)
                writer.label("fixed_label", _label_onto(classes[name], grid), grid)
                writer.label("moving_label", _label_onto(classes[other], grid, affine), grid)
                records.append(writer.record)
    return records


def pairs_with_landmarks(
    folder: Path, patients: Mapping[str, Mapping[str, MetaTensor]], target: Path
) -> list[dict[str, str]]:
    """Pairs of different sequences of the patient that was scanned twice, with landmarks of a radiologist.

    Args:
        folder: holds ``<case>/landmarks_lps.csv``.
        patients: sequences of each.
        target: files go into ``pairs/<pair>`` below it.

    Returns:
        Records with ``fixed``, ``moving`` and their landmarks (RAS+).
    """
    records = []
    for fixed, moving in FOLLOWUP_ORDERS:
        writer = PairWriter(target, f"{FOLLOWUP[0]}_{fixed}_{FOLLOWUP[1]}_{moving}")
        for side, case, sequence in (("fixed", FOLLOWUP[0], fixed), ("moving", FOLLOWUP[1], moving)):
            image = patients[case][sequence]
            grid = _test_grid(image)
            writer.image(side, resample_to_grid(image, grid), grid)
            points = read_landmarks(folder / case / "landmarks_lps.csv", "LPS")
            write_landmarks(points, writer.path(f"{side}_landmarks", ".csv"), "RAS")
        records.append(writer.record)
    return records


def remapped_pairs(folder: Path, target: Path) -> list[dict[str, str]]:
    """Pairs of T1 brains of two people, the moving one with other intensities, brought together by an affine transform.

    Args:
        folder: holds ``<id>_t1.nii.gz`` and ``<id>_labels.nii.gz``.
        target: files go into ``pairs/<pair>`` below it.

    Returns:
        Records with ``fixed``, ``moving`` and their labels, those of ``STRUCTURES``.
    """
    cases = {}
    for case in LABELED_TEST_CASES:
        labels = load_label(folder / f"{case}_labels.nii.gz")
        grouped = torch.zeros_like(labels)
        for number, structures in enumerate(STRUCTURES.values(), start=1):
            grouped[torch.isin(labels, torch.tensor(structures))] = number
        cases[case] = load_image(folder / f"{case}_t1.nii.gz"), grouped
    records = []
    for name, other in _labeled_orders():
        (image, label), (moving, moving_label) = cases[name], cases[other]
        grid = _test_grid(image)
        affine = _affine(image, moving)
        writer = PairWriter(target, f"{name}_t1_{other}_remapped")
        writer.image("fixed", resample_to_grid(image, grid), grid)
        writer.image("moving", remap(resample_to_grid(moving, grid, affine)), grid)
        writer.label("fixed_label", _label_onto(label, grid), grid)
        writer.label("moving_label", _label_onto(moving_label, grid, affine), grid)
        records.append(writer.record)
    return records


def labeled_pairs(folder: Path) -> list[dict[str, str]]:
    """The same pairs of people as the scans are: T1 both, not brought together, with all structures.

    Args:
        folder: holds ``<id>_t1.nii.gz`` and ``<id>_labels.nii.gz``.

    Returns:
        Records with ``fixed``, ``moving`` and their labels.
    """
    records = []
    for fixed, moving in _labeled_orders():
        record = {"name": f"{fixed}_t1_{moving}_t1"}
        for side, case in (("fixed", fixed), ("moving", moving)):
            record |= {side: str(folder / f"{case}_t1.nii.gz"), f"{side}_label": str(folder / f"{case}_labels.nii.gz")}
        records.append(record)
    return records


def remap(image: Tensor) -> Tensor:
    """Give a T1 of a stripped brain another contrast, by ``REMAPPING``."""
    source, goal = REMAPPING
    top = np.quantile(image[image > 0], 0.999)
    return torch.from_numpy(np.interp(image.numpy() / top, source, goal).astype(np.float32))


def tissue_classes(images: Mapping[str, MetaTensor]) -> MetaTensor:
    """Fluid 1, gray 2 and white matter 3 by k-means of the contrast-enhanced T1; 0 outside the brain and in a tumour.

    Args:
        images: ``t1c``, ``brainmask`` and perhaps ``tumour``, ``(1, *spatial)`` on one grid.
    """
    image = images["t1c"]
    inside = images["brainmask"] > 0
    if "tumour" in images:
        inside = inside & (images["tumour"] == 0)
    values = image[inside].double().numpy()
    centers, _ = kmeans2(values, np.quantile(values, [0.05, 0.4, 0.8]), minit="matrix")
    centers = np.sort(centers)
    classes = torch.bucketize(image.as_tensor().double(), torch.from_numpy((centers[1:] + centers[:-1]) / 2)) + 1
    return MetaTensor(classes.to(torch.int32) * inside.as_tensor(), affine=image.affine)


def _labeled_orders() -> list[tuple[str, str]]:
    """Fixed and moving case: each with the next and the next but one."""
    cases = LABELED_TEST_CASES
    return [(case, cases[(k + step) % len(cases)]) for k, case in enumerate(cases) for step in (1, 2)]


def _test_grid(image: MetaTensor) -> Grid:
    return Grid.from_image(image).resized([SPACING] * 3)


def _label_onto(label: MetaTensor, grid: Grid, transform: SpatialTransform | None = None) -> Tensor:
    return resample_labels(label.as_tensor(), Grid.from_image(label), grid, transform)


def _affine(fixed: MetaTensor, moving: MetaTensor) -> SpatialTransform:
    grids = [Grid.from_image(image) for image in (fixed, moving)]
    return initial_transform("affine", fixed.as_tensor(), grids[0], moving.as_tensor(), grids[1])
