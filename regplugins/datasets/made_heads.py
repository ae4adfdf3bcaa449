# SPDX-License-Identifier: Apache-2.0
"""Heads and blocks of tissue in CT and MR, made of maps of tissues with random contrasts: to learn a modality from
where scans are few."""

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

from regplugins.data.random_warps import RandomWarp
from regplugins.io import write_image
from regplugins.spatial import Grid, resample_labels

# What a map tells apart. What is not brain is cut at random into so many kinds, each a tissue of its own.
AIR, BONE, MARROW, SCALP, FLUID, GRAY, WHITE, SOFT, TABLE = range(9)
KINDS = 4
# Of the images that are made, mm, and of a block; how far below the skin the scalp goes, and how thick bone is before
# there is marrow in it, voxels of the map.
MADE_SPACING = 3.0
_BLOCK = (64, 64, 64)
_SCALP_DEPTH = 3
_CORTEX = 1
_SHAPES = RandomWarp(8.0, rotation=0.0, translation=0.0, scaling=0.15)
# In a CT, from air to the densest bone: least and largest mean of each. Marrow is of bone and fat.
_CT = {
    AIR: (0.0, 0.0),
    BONE: (0.75, 1.0),
    MARROW: (0.5, 0.85),
    TABLE: (0.05, 0.4),
    SCALP: (0.38, 0.46),
    FLUID: (0.47, 0.49),
    GRAY: (0.51, 0.53),
    WHITE: (0.5, 0.52),
    SOFT: (0.38, 0.54),
}
_MR = {**dict.fromkeys(_CT, (0.15, 1.0)), AIR: (0.0, 0.0), TABLE: (0.0, 0.0), BONE: (0.0, 0.12)}
_MIXED = (BONE, MARROW, SCALP, SOFT)
# How often what a CT's scanner did not see, beyond a circle, is marked by a value below that of air; many scanners do.
_PADDED = 0.3


def tissue_map(ct: MetaTensor, head: Tensor, bone: float, brain: Mapping[int, Tensor]) -> Tensor:
    """Which tissue each voxel of a CT is of.

    Args:
        ct: ``(1, *spatial)``.
        head: what of it is not the air about it, the same shape.
        bone: least value of bone.
        brain: where ``FLUID``, ``GRAY`` and ``WHITE`` are, the same shape each.

    Returns:
        int32, the same shape.
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
    """A map ``(64, 64, 64)`` of no anatomy: a lump with plates, rods and a shell of bone and with hollows, at random,
    often on a table.
    """
    shape = _BLOCK
    middle = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
    radii = random.uniform(0.3, 0.5, 3) * shape
    depth = np.linalg.norm(middle / radii[:, None, None, None], axis=0)
    depth += random.uniform(0.0, 0.1) * _smooth(random, shape, 6.0)
    # Cut flat, as at a neck.
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


def make_heads(tissues: Tensor, own: Grid, number: int, target: Path) -> list[dict[str, str]]:
    """Write ``number`` heads of each modality, each in a random shape, and as many blocks of tissue that are no head;
    the name of one is its seed.

    In a CT the tissues have the order that they always have; in an MR any, but for air and bone, which are dark.

    Args:
        tissues: a map, ``(1, *spatial)``.
        own: its grid.
        number: of heads of each modality, and of blocks.
        target: folder of the datalist; images go into ``made`` below it.

    Returns:
        Records with ``image``, relative to the target, ``modality``, and ``kind``, "head" or "block".
    """
    (target / "made").mkdir(parents=True, exist_ok=True)
    grid = own.canonical().resized([MADE_SPACING] * 3)
    room = grid.resized([MADE_SPACING] * 3, _BLOCK)
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
    """An image in [0, 1], but for noise and what a CT's scanner did not see, of a map of tissues."""
    smooth = _smooth(random, tissues.shape, random.uniform(2.0, 6.0))
    kinds = np.digitize(smooth, np.quantile(smooth, np.arange(1, KINDS) / KINDS))
    image = np.zeros(tissues.shape)
    for tissue, means in (_CT if modality == "CT" else _MR).items():
        for kind in range(KINDS):
            # The brain's tissues are one each, all others as many as there are kinds.
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
    """Noise of a standard deviation of one, smooth over so many voxels."""
    noise = gaussian_filter(random.standard_normal(shape), width, mode="wrap")
    return np.asarray(noise / noise.std())
