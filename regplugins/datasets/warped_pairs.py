# SPDX-License-Identifier: Apache-2.0
"""Pairs with a known warp, and images and labels on their grid."""

from __future__ import annotations

from zlib import crc32

from monai.data import MetaTensor
from torch import Tensor

from regplugins.data.random_warps import RandomWarp
from regplugins.datasets.datalist import PairWriter
from regplugins.io import write_displacement
from regplugins.spatial import Grid, SpatialTransform, resample_labels, resample_to_grid

# Voxel size of the pairs' grids, mm.
SPACING = 2.0


def write_warped(
    writer: PairWriter,
    fixed: MetaTensor,
    moving: MetaTensor,
    mask: MetaTensor,
    grid: Grid,
    warp: RandomWarp,
    classes: MetaTensor | None = None,
) -> None:
    """Write a pair on a grid, the fixed image warped at random; the seed is the CRC of the pair's name.

    The record gets ``fixed``, ``moving``, ``fixed_mask``, ``truth`` and, with classes, labels. Images, the fixed
    image's mask and the classes of both images are ``(1, *spatial)`` in one world, before the warp.
    """
    truth = warp.set_random_state(seed=crc32(writer.folder.name.encode()))(grid).sample(grid)
    writer.image("fixed", resample_to_grid(fixed, grid, truth), grid)
    writer.image("moving", resample_to_grid(moving, grid), grid)
    writer.label("fixed_mask", resample_label(mask, grid, truth), grid)
    if classes is not None:
        writer.label("fixed_label", resample_label(classes, grid, truth), grid)
        writer.label("moving_label", resample_label(classes, grid), grid)
    write_displacement(truth, writer.path("truth"))


def isotropic_grid(image: MetaTensor) -> Grid:
    """The grid of an image with voxels of ``SPACING``."""
    return Grid.from_image(image).resized([SPACING] * 3)


def resample_label(label: MetaTensor, grid: Grid, transform: SpatialTransform | None = None) -> Tensor:
    """Resample labels to a grid by nearest neighbor."""
    return resample_labels(label.as_tensor(), Grid.from_image(label), grid, transform)
