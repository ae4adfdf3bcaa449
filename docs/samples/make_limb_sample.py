# SPDX-License-Identifier: Apache-2.0
"""Draw the sample pair of the limb bundle: a thigh made of formulas, as an MR and, bent, as a CT.

    python docs/samples/make_limb_sample.py bundles/limb_ct_mr_dual_supervision/sample

The CT's header turns it and has other voxels, as another scanner's would; the muscles were moved by a known warp.
"""

from __future__ import annotations

from pathlib import Path

import fire
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regplugins.data import RandomWarp
from regplugins.io import write_image
from regplugins.spatial import Grid, rigid_transform

AIR, FAT, MUSCLE, CORTEX, MARROW = range(5)
HOUNSFIELD = (-1000.0, -100.0, 55.0, 1100.0, -40.0)
T1 = (0.0, 900.0, 330.0, 40.0, 780.0)
FIXED_SHAPE, FIXED_SPACING = (62, 58, 56), (2.0, 2.0, 2.4)
MOVING_SHAPE, MOVING_SPACING = (66, 62, 46), (2.0, 2.0, 3.0)
# mm.
FEMUR, CANAL, SEPTUM = 13.0, 6.5, 1.6
MUSCLES = 9


def tissues(points: Tensor) -> NDArray[np.int32]:
    """Tissue at points ``(..., 3)``, mm from the middle of the thigh, whose axis is the third."""
    x, y, z = (points[..., axis].numpy() for axis in range(3))
    x = x - 6 * np.sin(z / 60)
    angle, radius = np.arctan2(y, x), np.hypot(x / 1.08, y)
    skin = 50 - 0.08 * z + 3 * np.cos(2 * angle + 0.4)
    fascia = skin - 9 - 4 * np.cos(angle - 2)
    # Muscles are the cells about seeds that wind around the bone; fat lies between them.
    seeds = np.stack([(31 - 9 * (k % 2)) * np.exp(1j * (2 * np.pi * k / MUSCLES)) for k in range(MUSCLES)])
    place = x + 1j * y
    away = np.sort([np.abs(place - seed * np.exp(1j * (0.004 * z))) for seed in seeds], axis=0)
    shaft = np.hypot(x - 4 + 0.05 * z, y + 3)
    found = np.where(radius < skin, FAT, AIR)
    found[(radius < fascia) & (away[1] - away[0] > SEPTUM)] = MUSCLE
    for where in ((-8.0, 24.0), (3.0, 27.0)):  # vessels in their fat
        vessel = np.hypot(x - where[0] - 0.06 * z, y - where[1])
        found[vessel < 7] = FAT
        found[vessel < 4] = MUSCLE
    found[shaft < FEMUR] = CORTEX
    found[shaft < CANAL + 0.03 * z] = MARROW
    return found.astype(np.int32)


def _scanned(points: Tensor, means: tuple[float, ...], noise: float, seed: int) -> Tensor:
    """Gray values ``(1, *spatial)`` at points: the average of 27 positions about each, and noise."""
    random = np.random.default_rng(seed)
    offsets = torch.cartesian_prod(*[torch.tensor([-0.7, 0.0, 0.7], dtype=torch.float64)] * 3)
    values = np.mean([np.array(means)[tissues(points + offset)] for offset in offsets], axis=0)
    return torch.from_numpy(values + noise * random.normal(size=values.shape))[None]


def main(folder: str) -> None:
    """Write ``fixed``, ``moving`` and ``moving_label`` into a folder."""
    target = Path(folder)
    fixed = Grid(FIXED_SHAPE, torch.diag(torch.tensor([*FIXED_SPACING, 1.0], dtype=torch.float64)))
    points = fixed.coordinates() - fixed.center
    shading = 1 + 0.15 * torch.sin(points[..., 0] / 45) * torch.cos(points[..., 1] / 60)
    image = (_scanned(points, T1, 18.0, 0) * shading).clamp(min=0)
    write_image(image.round(), fixed, target / "fixed.nii.gz", np.int16)

    # The CT's world is turned and shifted; in it the thigh is bent.
    turn = rigid_transform(torch.tensor([3.0, -2.0, 7.0, 9.0, -12.0, 14.0]), fixed.center)
    local = Grid(MOVING_SHAPE, torch.diag(torch.tensor([*MOVING_SPACING, 1.0], dtype=torch.float64)))
    bend = RandomWarp(9.0, (30.0, 50.0), 0.0, 0.0, 0.0).set_random_state(2)(local)
    bent = bend(local.coordinates()) - local.center
    moving = Grid(MOVING_SHAPE, turn.matrix @ local.affine)
    ct = _scanned(bent, HOUNSFIELD, 14.0, 1)
    write_image(ct.round(), moving, target / "moving.nii.gz", np.int16)
    write_image(torch.from_numpy(tissues(bent))[None], moving, target / "moving_label.nii.gz", np.uint8)


if __name__ == "__main__":
    fire.Fire(main)
