# SPDX-License-Identifier: Apache-2.0
"""The network grid of a pair: its choice, and images and masks resampled to it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.utils import ensure_tuple_rep
from torch import Tensor

from regplugins.checks import positive
from regplugins.registration.image_pair import REFERENCE_SPACING
from regplugins.spatial import Grid, SpatialTransform, resample, resample_to_grid

# Voxels of an automatic grid along its longest axis; in 2-D, where pixels cost little and a photograph's size is
# rarely known, whatever they measure.
_AUTOMATIC_VOXELS, _AUTOMATIC_PIXELS = 128, 1024
# An image of fewer slices, thinner by this factor than it is long, is a stack of thick slices whatever its header says:
# they are taken to be as thick as some pixels.
_FEW_SLICES, _THIN, _THICKNESS = 24, 8, 5
# Voxels along the longest axis of a network grid: fewer show no anatomy.
_MIN_VOXELS = 4


def automatic_spacing(grid: Grid, voxels: int = _AUTOMATIC_VOXELS) -> list[float]:
    """Voxel size in mm, along each axis, of the network grid for an image: 2 mm, or less below 256 mm.

    With 128 voxels along the longest axis a mouse shows as much anatomy as a human brain at 1.5 mm. A 2-D image has up
    to 1024. The spacing is never finer than the image's own finest one, except across the slices of ``thin_axis``.

    Args:
        grid: of the image.
        voxels: along the longest axis of a 3-D image, unless they would have more than 2 mm.
    """
    own = grid.spacing.tolist()
    extents = [size * step for size, step in zip(grid.shape, own, strict=True)]
    thin = thin_axis(grid)
    pixel = min(step for axis, step in enumerate(own) if axis != thin)
    coarse = min(REFERENCE_SPACING, max(extents) / voxels)
    spacing = [max(max(extents) / _AUTOMATIC_PIXELS if grid.ndim == 2 else coarse, pixel)] * grid.ndim
    if thin is not None:
        spacing[thin] *= own[thin] / (_THICKNESS * pixel)
    return spacing


def thin_axis(grid: Grid) -> int | None:
    """Axis across the slices of a stack that the header makes thinner than any organ, or None.

    Such headers give 1 mm to slices of 8 or 10.
    """
    extents = [size * step for size, step in zip(grid.shape, grid.spacing.tolist(), strict=True)]
    axis = min(range(grid.ndim), key=extents.__getitem__)
    thin = grid.ndim == 3 and 1 < grid.shape[axis] < _FEW_SLICES and _THIN * extents[axis] < max(extents)
    return axis if thin else None


def network_grid(grid: Grid, spacing: Sequence[float] | float | None, shape: Sequence[int] | None = None) -> Grid:
    """Grid with the image's center, whose axes are the image's, reordered and flipped to the nearest RAS+.

    Args:
        grid: of the image.
        spacing: voxel size in mm, one number or one per axis; None: ``automatic_spacing``.
        shape: voxels per axis; default: as many as cover the image's field of view.

    Raises:
        ValueError: if the spacing is not positive, the grid does not fit into memory, or it has fewer than 4 voxels
            along every axis.
    """
    image = grid.canonical()
    spacing = automatic_spacing(image) if spacing is None else spacing
    if isinstance(spacing, (list, tuple)) and len(spacing) != grid.ndim:
        raise ValueError(f"spacing must be one number or {grid.ndim}, got {spacing}")
    spacings = [positive("spacing", step) for step in ensure_tuple_rep(spacing, grid.ndim)]
    extent = [size * step for size, step in zip(image.shape, image.spacing.tolist(), strict=True)]
    voxels = shape or [length / step for length, step in zip(extent, spacings, strict=True)]
    # Both images and the field, float32.
    needed = math.prod(voxels) * (2 + grid.ndim) * 4
    # Unknown on Windows.
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if needed > memory:
        raise ValueError(
            f"spacing {spacing}: the network grid would have {' x '.join(f'{size:.6g}' for size in voxels)} voxels and "
            f"take at least {needed / 1e9:.3g} GB of memory, this machine has {memory / 1e9:.3g} GB; "
            f"give a {'larger --spacing' if shape is None else 'smaller shape'}"
        )
    result = image.resized(spacings, shape)
    if shape is None and max(result.shape) < min(_MIN_VOXELS, max(image.shape)):
        raise ValueError(
            f"spacing {spacing}: the network grid would have {' x '.join(map(str, result.shape))} voxels, at least "
            f"{_MIN_VOXELS} along one axis are needed; give a smaller --spacing"
        )
    return result


def resample_pair(fixed: MetaTensor, moving: MetaTensor, grid: Grid, initial: SpatialTransform) -> Tensor:
    """Resample both images ``(1, *spatial)`` to a grid in the fixed image's world, the moving one through ``initial``.

    ``initial`` leads from the fixed to the moving world. Returns ``(2, *grid.shape)``: moving and fixed image.
    """
    return torch.cat([resample_to_grid(moving, grid, initial), resample_to_grid(fixed, grid)])


def resample_masks(
    pair: Mapping[str, Any], grid: Grid, initial: SpatialTransform, device: str | torch.device | None = None
) -> dict[str, Tensor]:
    """Resample the masks that a pair has to a grid in the fixed image's world.

    ``fixed_mask`` and ``moving_mask``, ``(1, *spatial)``, are nonzero where the image is used; ``paths`` name them in
    errors. The result has the same keys, ``(1, 1, *grid.shape)`` in [0, 1], with 0 outside a mask's own grid. Raises
    ``ValueError`` if a mask is zero on the whole grid.
    """
    masks = {}
    for name, transform in (("fixed_mask", None), ("moving_mask", initial)):
        if name in pair:
            values = (pair[name].as_tensor() != 0).to(torch.float32)
            masks[name] = resample(values, Grid.from_image(pair[name]), grid, transform)[None].to(device)
            if not masks[name].any():
                raise ValueError(f"{pair['paths'][name]} is zero on the whole network grid")
    return masks
