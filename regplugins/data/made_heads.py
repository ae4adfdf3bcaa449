# SPDX-License-Identifier: Apache-2.0
"""Heads in CT and MR made of maps of tissues, with random contrasts: to learn a modality from where scans are few."""

from __future__ import annotations

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
AIR, BONE, SCALP, FLUID, GREY, WHITE, SOFT = range(7)
KINDS = 4
# Of the images that are made, mm; how far below the skin the scalp goes, voxels of the map.
MADE_SPACING = 3.0
_SCALP_DEPTH = 3
_SHAPES = RandomWarp(8.0, rotation=0.0, translation=0.0, scaling=0.15)
# In a CT, from air to the densest bone: least and largest mean of each.
_CT = {
    AIR: (0.0, 0.0),
    BONE: (0.75, 1.0),
    SCALP: (0.38, 0.46),
    FLUID: (0.47, 0.49),
    GREY: (0.51, 0.53),
    WHITE: (0.5, 0.52),
    SOFT: (0.49, 0.54),
}
_MR = {**dict.fromkeys(_CT, (0.15, 1.0)), AIR: (0.0, 0.0), BONE: (0.0, 0.12)}


def tissue_map(ct: MetaTensor, head: Tensor, bone: float, brain: Mapping[int, Tensor]) -> Tensor:
    """Which tissue each voxel of a CT is of.

    Args:
        ct: ``(1, *spatial)``.
        head: what of it is not the air about it, the same shape.
        bone: least value of bone.
        brain: where ``FLUID``, ``GREY`` and ``WHITE`` are, the same shape each.

    Returns:
        int32, the same shape.
    """
    inside = head.numpy()[0] > 0
    deep = binary_erosion(inside, iterations=_SCALP_DEPTH)
    tissues = np.where(deep, SOFT, np.where(inside, SCALP, AIR))
    for tissue, where in brain.items():
        tissues[where.numpy()[0].astype(bool) & inside] = tissue
    tissues[(ct.numpy()[0] >= bone) & inside] = BONE
    return torch.from_numpy(tissues.astype(np.int32))[None]


def make_heads(tissues: Tensor, own: Grid, number: int, target: Path) -> list[dict[str, str]]:
    """Write ``number`` heads of each modality, each in a random shape; the name of one is its seed.

    In a CT the tissues have the order that they always have; in an MR any, but for air and bone, which are dark.

    Args:
        tissues: a map, ``(1, *spatial)``.
        own: its grid.
        number: of each modality.
        target: folder of the datalist; images go into ``made`` below it.

    Returns:
        Records with ``image``, relative to the target, and ``modality``.
    """
    (target / "made").mkdir(parents=True, exist_ok=True)
    grid = own.canonical().resized([MADE_SPACING] * 3)
    records = []
    for modality in ("CT", "MR"):
        for count in range(number):
            path = target / f"made/{modality.lower()}_{count}.nii.gz"
            seed = crc32(path.name.encode())
            shape = _SHAPES.set_random_state(seed=seed)(grid).sample(grid)
            warped = resample_labels(tissues, own, grid, shape)[0].numpy()
            image = _contrast(warped, modality, np.random.default_rng(seed))
            write_image(torch.from_numpy(image)[None], grid, path)
            records.append({"image": str(path.relative_to(target)), "modality": modality})
    return records


def _contrast(tissues: NDArray[np.int32], modality: str, random: np.random.Generator) -> NDArray[np.float32]:
    """An image in [0, 1], but for noise, of a map of tissues."""
    smooth = _smooth(random, tissues.shape, random.uniform(2.0, 6.0))
    kinds = np.digitize(smooth, np.quantile(smooth, np.arange(1, KINDS) / KINDS))
    image = np.zeros(tissues.shape)
    for tissue, means in (_CT if modality == "CT" else _MR).items():
        for kind in range(KINDS):
            # The brain's tissues are one each, all others as many as there are kinds.
            if kind == 0 or tissue in (BONE, SCALP, SOFT):
                value = random.uniform(*means)
            image[(tissues == tissue) & (kinds == kind)] = value
    texture = random.uniform(0.0, 0.06 if modality == "MR" else 0.02)
    image += (tissues != AIR) * texture * _smooth(random, tissues.shape, 1.0)
    if modality == "MR":
        image *= np.exp(random.uniform(0.0, 0.3) * _smooth(random, tissues.shape, 15.0))
    image = gaussian_filter(image, random.uniform(0.0, 1.0))
    image += random.uniform(0.0, 0.03) * random.standard_normal(tissues.shape)
    return np.asarray(image, np.float32)


def _smooth(random: np.random.Generator, shape: Sequence[int], width: float) -> NDArray[np.float64]:
    """Noise of a standard deviation of one, smooth over so many voxels."""
    noise = gaussian_filter(random.standard_normal(shape), width, mode="wrap")
    return np.asarray(noise / noise.std())
