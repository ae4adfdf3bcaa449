# SPDX-License-Identifier: Apache-2.0
"""Synthetic heads and blocks of tissue in CT and MR, tissue maps with random contrasts to train on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter
from torch import Tensor

from regplugins.data.contrast import AIR, BONE, CT_MEANS, FLUID, GRAY, MARROW, SCALP, SOFT, TABLE, WHITE
from regplugins.data.random_warps import RandomWarp
from regplugins.io import write_image
from regplugins.spatial import Grid, resample_labels

# What is not brain is cut at random into KINDS parts, each with an intensity of its own.
KINDS = 4
# Spacing of the images, mm, and shape of a block. Depth of the scalp and of bone before marrow, voxels of the map.
SYNTHETIC_SPACING = 3.0
_BLOCK = (64, 64, 64)
_SCALP_DEPTH = 3
_CORTEX = 1
_SHAPES = RandomWarp(8.0, rotation=0.0, translation=0.0, scaling=0.15)
_MR = {**dict.fromkeys(CT_MEANS, (0.15, 1.0)), AIR: (0.0, 0.0), TABLE: (0.0, 0.0), BONE: (0.0, 0.12)}
_MIXED = (BONE, MARROW, SCALP, SOFT)
# Share of CTs whose voxels beyond the circular field of view have a value below air, as many scanners write them.
_PADDED = 0.3


def tissue_map(ct: MetaTensor, head: Tensor, bone: float, brain: Mapping[int, Tensor]) -> Tensor:
    """Tissue of each voxel of a CT ``(1, *spatial)``, int32 of the same shape.

    ``head`` and ``brain``, that is ``FLUID``, ``GRAY`` and ``WHITE``, are masks of the same shape. ``bone`` is the
    smallest value of bone.
    """
    inside = head.numpy()[0] > 0
    deep = binary_erosion(inside, iterations=_SCALP_DEPTH)
    tissues = np.where(deep, SOFT, np.where(inside, SCALP, AIR))
    for tissue, where in brain.items():
        tissues[where.numpy()[0].astype(bool) & inside] = tissue
    _ossify(tissues, (ct.numpy()[0] >= bone) & inside)
    return torch.from_numpy(tissues.astype(np.int32))[None]


def _ossify(tissues: NDArray[np.int32], bone: NDArray[np.bool_]) -> None:
    tissues[bone] = BONE
    tissues[binary_erosion(bone, iterations=_CORTEX)] = MARROW


def random_block(random: np.random.Generator) -> NDArray[np.int32]:
    """A tissue map ``(64, 64, 64)`` of no anatomy: random plates, rods and a shell of bone, often on a table."""
    shape = _BLOCK
    middle = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
    radii = random.uniform(0.3, 0.5, 3) * shape
    depth = np.linalg.norm(middle / radii[:, None, None, None], axis=0)
    depth += random.uniform(0.0, 0.1) * _smooth(random, shape, 6.0)
    # A flat cut, as at a neck.
    along = middle[random.integers(3)] * random.choice([-1, 1])
    inside = (depth < 1) & (along < random.uniform(0.4, 1.0) * radii.min())
    tissues = np.where(binary_erosion(inside, iterations=_SCALP_DEPTH), SOFT, np.where(inside, SCALP, AIR))
    shell = random.uniform(0.5, 0.85)
    brain = inside & (depth < shell)
    one, other, third = (_smooth(random, shape, random.uniform(3.0, 7.0)) for _ in range(3))
    if random.uniform() < 0.5:
        kinds = np.digitize(_smooth(random, shape, random.uniform(2.0, 5.0)), [-0.4, 1.0])
        tissues[brain] = np.array([GRAY, WHITE, FLUID])[kinds[brain]]
    thickness = random.uniform(0.1, 0.4, 3)
    bone = (np.abs(one) < thickness[0]) & (third > random.uniform(0.5, 2.0))  # plates
    bone |= one**2 + other**2 < thickness[1] ** 2  # rods
    if random.uniform() < 0.5:
        bone |= (np.abs(depth - shell) < thickness[2] / 3) & (other > random.uniform(-2.5, -1.0))  # an open shell
    _ossify(tissues, bone & inside)
    tissues[inside & (third < -random.uniform(1.5, 3.0))] = AIR
    if random.uniform() < 0.5:
        where = random.uniform(0.7, 1.0) * radii[1]
        tissues[~inside & (np.abs(middle[1] - where) < random.uniform(0.5, 2.0))] = TABLE
    return np.asarray(tissues, np.int32)


def write_synthetic_heads(tissues: Tensor, own: Grid, number: int, target: Path) -> list[dict[str, str]]:
    """Write heads of random shape, and blocks of tissue that are no head, in each modality.

    Tissues have their usual order of intensities in a CT. In an MR the order is random, but air and bone are dark. The
    seed of an image is the CRC of its file name.

    Args:
        tissues: tissue map, ``(1, *spatial)``.
        own: its grid.
        number: heads of each modality, and blocks of each modality.
        target: folder of the datalist; images go into ``made`` below it.

    Returns:
        Records with ``image``, relative to the target, ``modality``, and ``kind``, "head" or "block".
    """
    (target / "made").mkdir(parents=True, exist_ok=True)
    grid = own.canonical().resized([SYNTHETIC_SPACING] * 3)
    room = grid.resized([SYNTHETIC_SPACING] * 3, _BLOCK)
    records = []
    for modality, kind, count in itertools.product(("CT", "MR"), ("head", "block"), range(number)):
        path = target / f"made/{modality.lower()}_{kind}_{count}.nii.gz"
        seed = crc32(path.name.encode())
        random = np.random.default_rng(seed)
        if kind == "head":
            shape = _SHAPES.set_random_state(seed=seed)(grid).sample(grid)
            shown, there = resample_labels(tissues, own, grid, shape)[0].numpy(), grid
        else:
            shown, there = random_block(random), room
        write_image(torch.from_numpy(random_contrast(shown, modality, random))[None], there, path)
        records.append({"image": str(path.relative_to(target)), "modality": modality, "kind": kind})
    return records


def random_contrast(tissues: NDArray[np.int32], modality: str, random: np.random.Generator) -> NDArray[np.float32]:
    """Render a tissue map as an image in [0, 1], apart from noise and a CT's values outside the field of view."""
    smooth = _smooth(random, tissues.shape, random.uniform(2.0, 6.0))
    kinds = np.digitize(smooth, np.quantile(smooth, np.arange(1, KINDS) / KINDS))
    image = np.zeros(tissues.shape)
    for tissue, means in (CT_MEANS if modality == "CT" else _MR).items():
        for kind in range(KINDS):
            # Each tissue of the brain has one intensity, the others one for each kind.
            if kind == 0 or tissue in _MIXED:
                value = random.uniform(*means)
            image[(tissues == tissue) & (kinds == kind)] = value
    texture = random.uniform(0.0, 0.06 if modality == "MR" else 0.02)
    image += (tissues != AIR) * texture * _smooth(random, tissues.shape, 1.0)
    if modality == "MR":
        image *= np.exp(random.uniform(0.0, 0.3) * _smooth(random, tissues.shape, 15.0))
    image = gaussian_filter(image, random.uniform(0.0, 1.0))
    image += random.uniform(0.0, 0.03) * random.standard_normal(tissues.shape)
    if modality == "CT" and random.uniform() < _PADDED:
        along = random.integers(3)
        places = [(np.arange(n) - (n - 1) / 2) / (n / 2) for axis, n in enumerate(tissues.shape) if axis != along]
        beyond = np.hypot(*np.meshgrid(*places, indexing="ij")) > random.uniform(0.8, 1.1)
        image[np.broadcast_to(np.expand_dims(beyond, along), image.shape)] = -random.uniform(0.0, 1.0)
    return np.asarray(image, np.float32)


def _smooth(random: np.random.Generator, shape: Sequence[int], width: float) -> NDArray[np.float64]:
    """Gaussian noise smoothed over ``width`` voxels, with a standard deviation of one."""
    noise = gaussian_filter(random.standard_normal(shape), width, mode="wrap")
    return np.asarray(noise / noise.std())
