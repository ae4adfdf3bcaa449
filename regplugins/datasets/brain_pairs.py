# SPDX-License-Identifier: Apache-2.0
"""Pairs of brains at 2 mm to evaluate a registration on, by a known warp, tissue classes or landmarks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle, islice, permutations
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from scipy.cluster.vq import kmeans2

from regplugins.data.random_warps import RandomWarp
from regplugins.datasets.datalist import PairWriter
from regplugins.datasets.warped_pairs import SPACING, isotropic_grid, resample_label, write_warped
from regplugins.io import read_landmarks, write_landmarks
from regplugins.registration import initial_transform
from regplugins.spatial import Grid, SpatialTransform, resample_to_grid

# Fixed and moving sequence of the pairs with a known warp, and their number for each brain.
KNOWN_ORDERS = (
    *(("t1", "t2"), ("t2", "t1"), ("t1", "flair"), ("flair", "t1c"), ("t1c", "flair"), ("t2", "flair")),
    *(("ct", "t1"), ("t1", "ct")),
)
KNOWN_PAIRS = 6

# A warp for methods that find the affine part too, and the margin about a brain that keeps it in view, mm. Pairs of
# volumes and of slices for each brain.
STRONG = RandomWarp(10.0, (32.0, 64.0), 15.0, 16.0, 0.12)
STRONG_ROOM = 24.0
STRONG_PAIRS = 6
STRONG_SLICES = 12

# Fixed and moving sequence of the pairs of two patients, and of one patient at two times.
BETWEEN_ORDERS = (("t1c", "t2"), ("t2", "t1c"), ("t1c", "flair"), ("flair", "t1c"), ("flair", "t1"), ("t1", "flair"))
FOLLOWUP = ("BraTSReg_002_00", "BraTSReg_002_01")
FOLLOWUP_ORDERS = (("t1", "t2"), ("t2", "t1"), ("t1c", "flair"), ("flair", "t1c"))


def known_pairs(name: str, images: Mapping[str, MetaTensor], target: Path) -> list[dict[str, str]]:
    """Pairs of different sequences of one brain, the fixed one warped by ``RandomWarp``'s defaults.

    The warp is sampled on the fixed grid and linear between voxels, so the file holds it exactly. ``images`` are
    sequences and ``brainmask``, ``(1, *spatial)`` on one grid. Files go into ``pairs/<pair>`` below ``target``. The
    records have ``fixed``, ``moving``, ``truth`` and ``fixed_mask`` (the brain).
    """
    orders = cycle(order for order in KNOWN_ORDERS if set(order) <= images.keys())
    records = []
    for number, (fixed, moving) in enumerate(islice(orders, KNOWN_PAIRS)):
        writer = PairWriter(target, f"{name}_{fixed}_{moving}_{number}")
        grid = isotropic_grid(images[fixed])
        write_warped(writer, images[fixed], images[moving], images["brainmask"], grid, RandomWarp())
        records.append(writer.record)
    return records


def strong_volumes(
    name: str, images: Mapping[str, MetaTensor], classes: MetaTensor, target: Path
) -> list[dict[str, str]]:
    """Pairs of FLAIR (fixed, warped by ``STRONG``) and contrast-enhanced T1 (moving) of one brain.

    Arguments and records as of ``known_pairs``, with the ``brain_tissues`` as labels.
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
    """Pairs of axial slices as of ``strong_volumes``; ``order`` gives the fixed and the moving sequence."""
    grid = _roomy_grid(images)
    both = [resample_to_grid(images[sequence], grid) for sequence in order]
    mask, tissue = (resample_label(labels, grid) for labels in (images["brainmask"], classes))
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
    """Grid about a brain, with a margin for the displacements of ``STRONG``."""
    box = Grid.from_image(images["flair"]).canonical()
    extent = torch.tensor(box.shape) * box.spacing + 2 * STRONG_ROOM
    return box.resized([SPACING] * 3, (extent / SPACING).round().int().tolist())


def pairs_between(patients: Mapping[str, Mapping[str, MetaTensor]], target: Path) -> list[dict[str, str]]:
    """Pairs of different sequences of two patients, the moving one aligned by an affine transform.

    The records have ``fixed``, ``moving`` and the ``brain_tissues`` as labels. ``target`` is as of ``known_pairs``.
    """
    records = []
    classes = {name: brain_tissues(images) for name, images in patients.items()}
    for (name, fixed_images), (other, moving_images) in permutations(patients.items(), 2):
        if {name, other} == set(FOLLOWUP):
            continue
        grid = isotropic_grid(fixed_images["t1c"])
        affine = affine_between(fixed_images["t1c"], moving_images["t1c"])
        for fixed, moving in BETWEEN_ORDERS:
            if fixed in fixed_images and moving in moving_images:
                writer = PairWriter(target, f"{name}_{fixed}_{other}_{moving}")
                writer.image("fixed", resample_to_grid(fixed_images[fixed], grid), grid)
                writer.image("moving", resample_to_grid(moving_images[moving], grid, affine), grid)
                writer.label("fixed_label", resample_label(classes[name], grid), grid)
                writer.label("moving_label", resample_label(classes[other], grid, affine), grid)
                records.append(writer.record)
    return records


def pairs_with_landmarks(
    folder: Path, patients: Mapping[str, Mapping[str, MetaTensor]], target: Path
) -> list[dict[str, str]]:
    """Pairs of different sequences of the patient who was scanned twice, with a radiologist's landmarks.

    ``folder`` holds ``<case>/landmarks_lps.csv``. The records have ``fixed``, ``moving`` and their landmarks (RAS+).
    """
    records = []
    for fixed, moving in FOLLOWUP_ORDERS:
        writer = PairWriter(target, f"{FOLLOWUP[0]}_{fixed}_{FOLLOWUP[1]}_{moving}")
        for side, case, sequence in (("fixed", FOLLOWUP[0], fixed), ("moving", FOLLOWUP[1], moving)):
            image = patients[case][sequence]
            grid = isotropic_grid(image)
            writer.image(side, resample_to_grid(image, grid), grid)
            points = read_landmarks(folder / case / "landmarks_lps.csv", "LPS")
            write_landmarks(points, writer.path(f"{side}_landmarks", ".csv"), "RAS")
        records.append(writer.record)
    return records


def brain_tissues(images: Mapping[str, MetaTensor]) -> MetaTensor:
    """Segment fluid (1), gray (2) and white matter (3) by k-means of the contrast-enhanced T1; int32 on its grid.

    ``images`` has ``t1c``, ``brainmask`` and optionally ``tumor``, ``(1, *spatial)`` on one grid. Classes are 0 outside
    the brain and in a tumor.
    """
    image = images["t1c"]
    inside = images["brainmask"] > 0
    if "tumor" in images:
        inside = inside & (images["tumor"] == 0)
    values = image[inside].double().numpy()
    centers, _ = kmeans2(values, np.quantile(values, [0.05, 0.4, 0.8]), minit="matrix")
    centers = np.sort(centers)
    classes = torch.bucketize(image.as_tensor().double(), torch.from_numpy((centers[1:] + centers[:-1]) / 2)) + 1
    return MetaTensor(classes.to(torch.int32) * inside.as_tensor(), affine=image.affine)


def affine_between(fixed: MetaTensor, moving: MetaTensor) -> SpatialTransform:
    """Affine transform by mutual information, from the fixed to the moving image's world."""
    return initial_transform("affine", fixed, moving)[1]
