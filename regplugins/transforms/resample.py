# SPDX-License-Identifier: Apache-2.0
"""How a pair of images meets on the network's grid."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.transforms.utils_pytorch_numpy_unification import percentile
from torch import Tensor

from regplugins.checks import boolean, positive
from regplugins.registration import CHOICES, initial_transform
from regplugins.registration.levels import REFERENCE_SPACING
from regplugins.spatial import AffineTransform, Grid, SpatialTransform, overlap, resample, resample_to_grid
from regplugins.transforms.timing import stage
from regplugins.transforms.warn import warn

# The background of a stripped brain takes half of the box around it; a whole head's is noise, not one value.
_STRIPPED_BACKGROUND = 0.2
# Of an automatic grid, along its longest axis.
_VOXELS = 96
# A grid of fewer voxels along an axis shows little of an image that has twice as many there.
_FEW_VOXELS = 48
# Voxels along the longest axis of a network grid: fewer show no anatomy.
_MIN_VOXELS = 4


def automatic_spacing(grid: Grid) -> float:
    """Voxel size of the network's grid for an image of any size: 2 mm, or less if the image is small.

    96 voxels along the longest axis show the anatomy of a mouse as 2 mm do that of a human head; more than the image
    itself has along its finest axis would add nothing.

    Args:
        grid: of the image, mm.
    """
    extent = max(size * step for size, step in zip(grid.shape, grid.spacing.tolist(), strict=True))
    return min(REFERENCE_SPACING, max(extent / _VOXELS, float(grid.spacing.min())))


def network_grid(grid: Grid, spacing: Sequence[float] | float | None, shape: Sequence[int] | None = None) -> Grid:
    """Grid on which a network sees an image: about the same center, its axes those of the image that are nearest to
    RAS+.

    Args:
        grid: of the image.
        spacing: voxel size in mm, one number or one an axis; None: ``automatic_spacing``.
        shape: number of voxels an axis; default: as many as cover the image's field of view.

    Raises:
        ValueError: if the spacing is not positive numbers, the grid does not fit into memory, or it keeps fewer than 4
            voxels along every axis.
    """
    if spacing is None:
        spacing = automatic_spacing(grid)
    given = spacing if isinstance(spacing, (list, tuple)) else [spacing] * grid.ndim
    sizes = [positive("spacing", size) for size in given]
    if len(sizes) != grid.ndim:
        raise ValueError(f"spacing must be one number or {grid.ndim}, got {spacing}")
    image = grid.canonical()
    extent = [size * step for size, step in zip(image.shape, image.spacing.tolist(), strict=True)]
    voxels = shape or [length / size for length, size in zip(extent, sizes, strict=True)]
    # The two images and the field that a network makes of them, float32.
    needed, memory = math.prod(voxels) * (2 + grid.ndim) * 4, _memory()
    if needed > memory:
        raise ValueError(
            f"spacing {spacing}: the network grid would have {' x '.join(f'{size:.6g}' for size in voxels)} voxels and "
            f"take at least {needed / 1e9:.3g} GB of memory, this machine has {memory / 1e9:.3g} GB; "
            f"give a {'larger --spacing' if shape is None else 'smaller shape'}"
        )
    result = image.resized(sizes, shape)
    if shape is None and max(result.shape) < min(_MIN_VOXELS, max(image.shape)):
        raise ValueError(
            f"spacing {spacing}: the network grid would have {' x '.join(map(str, result.shape))} voxels, at least "
            f"{_MIN_VOXELS} along one axis are needed; give a smaller --spacing"
        )
    return result


def _memory() -> float:
    """Bytes of this machine's memory; infinite where Python does not tell (Windows)."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf


def normalize(image: Tensor, lower: float = 1.0, upper: float = 99.0) -> Tensor:
    """Map the given percentiles of an image ``(1, *spatial)`` to 0 and 1, and clip: scanners' scales differ
    twentyfold.

    Where the two are one value, as in an image that is nearly all background, the extremes stand in for them.
    """
    low, high = map(float, percentile(image, [lower, upper]))
    if low == high:
        low, high = image.min().item(), image.max().item()
    return ((image - low) / ((high - low) or 1.0)).clamp(0, 1)


def initial_of(pair: Mapping[str, Any], init: str, seed: int = 0) -> AffineTransform:
    """Initial transform of a loaded pair, its masks regarded; arguments as of ``initial_transform``.

    Raises:
        ValueError: as ``initial_transform`` does, with the names of the images if these are at fault.
    """
    fixed, moving = pair["fixed"], pair["moving"]
    try:
        return initial_transform(
            init,
            fixed.as_tensor(),
            Grid.from_image(fixed),
            moving.as_tensor(),
            Grid.from_image(moving),
            seed=seed,
            fixed_mask=pair.get("fixed_mask"),
            moving_mask=pair.get("moving_mask"),
        )
    except ValueError as error:
        if init not in CHOICES:  # the file is at fault, not the images
            raise
        raise ValueError(f"{pair['paths']['fixed']} and {pair['paths']['moving']}: {error}") from error


def resample_pair(fixed: MetaTensor, moving: MetaTensor, grid: Grid, initial: SpatialTransform) -> Tensor:
    """Both images, ``(1, *spatial)``, normalized, on a grid in the fixed one's world: ``(2, *grid.shape)``, moving and
    fixed.
    """
    return torch.cat([normalize(resample_to_grid(moving, grid, initial)), normalize(resample_to_grid(fixed, grid))])


def masks_on(
    grid: Grid, pair: Mapping[str, Any], initial: SpatialTransform, device: str | torch.device | None = None
) -> dict[str, Tensor]:
    """A loaded pair's masks, those that there are, on a grid in the fixed image's world.

    Returns:
        ``fixed_mask`` and ``moving_mask``, ``(1, 1, *grid.shape)`` in [0, 1]; beyond a mask nothing counts.

    Raises:
        ValueError: a mask is zero all over the grid, so that nothing would be compared.
    """
    masks = {}
    for name, way in (("fixed_mask", None), ("moving_mask", initial)):
        if name in pair:
            values = (pair[name].as_tensor() != 0).to(torch.float32)
            masks[name] = resample(values, Grid.from_image(pair[name]), grid, way)[None].to(device)
            if not masks[name].any():
                raise ValueError(f"{pair['paths'][name]} is zero wherever the images would be compared")
    return masks


class ResamplePaird(Transform):
    """Bring both images onto the network's grid in the fixed image's world and normalize them.

    Adds ``pair`` ``(2, *spatial)`` (moving, fixed), ``grid``, ``initial``, the transform from the fixed to the moving
    world by which the moving image came, and ``masks``, those that are to come along; the originals stay untouched.

    Args:
        spacing: of the network's grid, mm; None: ``automatic_spacing`` of the fixed image.
        init: "none", "fov", "center", "rigid", "affine" or a transform file, see ``regplugins.registration``.
        seed: of a registration by mutual information.
        trained_extent: size in mm, along the axes nearest to RAS, of what the network was trained on; a fixed image
            half or twice that size along an axis gets a warning.
        trained_stripped: the network was trained on brains without their skulls, all else one dark value; an image
            without such a background gets a warning.
        masks: bring masks along, for what optimizes; networks do not look at them.
        shape: of the network's grid, about the center of the fixed image's field of view; default: all of that.
    """

    def __init__(
        self,
        spacing: Sequence[float] | float | None,
        init: str = "none",
        seed: int = 0,
        trained_extent: Sequence[float] | None = None,
        trained_stripped: bool = False,
        masks: bool = False,
        shape: Sequence[int] | None = None,
    ) -> None:
        self.spacing = spacing
        self.shape = shape
        self.init = init
        self.seed = seed
        self.trained_extent = trained_extent
        self.trained_stripped = boolean("trained_stripped", trained_stripped)
        self.masks = boolean("masks", masks)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            ValueError: unknown ``init``, or images that do not overlap under it.
        """
        pair = dict(data)
        fixed, moving = pair["fixed"], pair["moving"]
        fixed_grid, moving_grid = Grid.from_image(fixed), Grid.from_image(moving)
        with stage(pair, "init"):
            initial = initial_of(pair, self.init, self.seed)
            if self.init not in CHOICES:
                if pair.get("swapped"):  # a file goes the way that the pair was given
                    initial = initial.inverse()
                pair["paths"] = {**pair["paths"], "init": self.init}
        with stage(pair, "resample"):
            grid = network_grid(fixed_grid, self.spacing, self.shape)
            if not overlap(grid, moving_grid, initial):
                raise ValueError(
                    f"{pair['paths']['fixed']} and {pair['paths']['moving']} do not overlap in the world "
                    f"(init '{self.init}'); try --init center or --init rigid"
                )
            pair |= {"pair": resample_pair(fixed, moving, grid, initial), "grid": grid, "initial": initial}
            pair["masks"] = masks_on(grid, pair, initial) if self.masks else {}
        if self.shape is None:  # else it is the grid that the network was made for
            _warn_of_coarse_grid(pair)
        self._warn_of_other_extent(pair, fixed_grid.canonical())
        for key in ("fixed", "moving"):
            self._warn_of_skull(pair, key)
        return pair

    def _warn_of_other_extent(self, pair: dict[str, Any], grid: Grid) -> None:
        if self.trained_extent is None:
            return
        extent = [size * step for size, step in zip(grid.shape, grid.spacing.tolist(), strict=True)]
        if any(not 0.5 < own / trained < 2 for own, trained in zip(extent, self.trained_extent, strict=True)):
            sizes = [" x ".join(f"{size:.0f}" for size in sizes) for sizes in (extent, self.trained_extent)]
            warn(pair, f"{pair['paths']['fixed']}: {sizes[0]} mm, but the network was trained on some {sizes[1]} mm")

    def _warn_of_skull(self, pair: dict[str, Any], key: str) -> None:
        image, path = pair[key].as_tensor(), pair["paths"][key]
        if self.trained_stripped and (image == image.min()).float().mean() < _STRIPPED_BACKGROUND:
            warn(pair, f"{path}: does not look like a brain without its skull, which the network was trained on")


def _warn_of_coarse_grid(pair: dict[str, Any]) -> None:
    """Warn if the ``grid`` of a pair leaves out most of what the fixed image shows."""
    grid, own = pair["grid"], Grid.from_image(pair["fixed"]).canonical()
    steps = zip(grid.shape, grid.spacing.tolist(), own.spacing.tolist(), strict=True)
    if any(size < _FEW_VOXELS and step > 2 * own_step for size, step, own_step in steps):
        sizes = [" x ".join(f"{size:.3g}" for size in part.spacing.tolist()) for part in (grid, own)]
        shape = " x ".join(map(str, grid.shape))
        warn(
            pair,
            f"{pair['paths']['fixed']}: seen on a grid of {shape} voxels of {sizes[0]} mm, its own are {sizes[1]} mm: "
            "small structures are lost; give a smaller --spacing, unless the network was trained at this one",
        )
