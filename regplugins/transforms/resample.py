# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that resample a pair to the network grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.transforms import Transform

from regplugins.checks import boolean
from regplugins.registration import INIT_CHOICES, initial_transform
from regplugins.registration.network_grid import network_grid, resample_masks, resample_pair, thin_axis
from regplugins.spatial import AffineTransform, Grid, overlap
from regplugins.transforms.timing import stage
from regplugins.transforms.warn import warn

# The background of a stripped brain fills half of its bounding box with one value; that of a whole head is noise.
_STRIPPED_BACKGROUND = 0.2
# Fewer voxels along an axis lose small structures of an image at less than half the spacing.
_FEW_VOXELS = 48


def pair_initial_transform(pair: Mapping[str, Any], init: str, seed: int = 0) -> tuple[str, AffineTransform]:
    """``initial_transform`` of a loaded pair within its masks."""
    masks = pair.get("fixed_mask"), pair.get("moving_mask")
    try:
        return initial_transform(init, pair["fixed"], pair["moving"], seed, *masks)
    except ValueError as error:
        if init not in INIT_CHOICES:  # the message names the transform file
            raise
        raise ValueError(f"{pair['paths']['fixed']} and {pair['paths']['moving']}: {error}") from error


class ResamplePaird(Transform):
    """Resample both images to the network grid in the fixed image's world.

    Adds ``pair`` ``(2, *spatial)`` (moving, fixed), ``grid``, ``initial``, the transform from the fixed to the moving
    world through which the moving image was resampled, ``masks`` and, of ``init`` "auto", ``chosen``. The originals
    stay unchanged.

    Args:
        spacing: of the network grid, mm; None: ``automatic_spacing`` of the fixed image.
        init: "auto", "none", "fov", "center", "rigid", "affine" or a transform file, see ``regplugins.registration``.
        seed: of a registration by mutual information.
        trained_extent: size in mm, along the axes nearest to RAS, of the training images. A fixed image of half or
            twice that size along an axis gets a warning.
        trained_stripped: the network was trained on skull-stripped brains. An image without a constant background gets
            a warning.
        masks: resample the masks too, for an optimization; networks do not use them.
        shape: of the network grid, about the center of the fixed image's field of view; default: the whole field of
            view.
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
            ValueError: if ``init`` is unknown, or the images do not overlap after it.
        """
        pair = dict(data)
        fixed, moving = pair["fixed"], pair["moving"]
        fixed_grid, moving_grid = Grid.from_image(fixed), Grid.from_image(moving)
        with stage(pair, "init"):
            name, initial = pair_initial_transform(pair, self.init, self.seed)
            if name != self.init:
                pair["chosen"] = {"init": name}
            if self.init not in INIT_CHOICES:
                if pair.get("swapped"):  # the file maps from the fixed image as given
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
            pair["masks"] = resample_masks(pair, grid, initial) if self.masks else {}
        if self.shape is None:  # else the grid is that of the training
            _warn_of_coarse_grid(pair)
        if self.spacing is None:
            _warn_of_thin_slices(pair)
        self._warn_of_other_extent(pair, fixed_grid.canonical())
        for key in ("fixed", "moving"):
            self._warn_of_skull(pair, key)
        return pair

    def _warn_of_other_extent(self, pair: dict[str, Any], grid: Grid) -> None:
        if self.trained_extent is None:
            return
        extent = [size * step for size, step in zip(grid.shape, grid.spacing.tolist(), strict=True)]
        if any(not 0.5 < own / trained < 2 for own, trained in zip(extent, self.trained_extent, strict=True)):
            texts = [" x ".join(f"{size:.0f}" for size in sizes) for sizes in (extent, self.trained_extent)]
            path = pair["paths"]["fixed"]
            warn(pair, f"{path}: {texts[0]} mm, but the network was trained on images of about {texts[1]} mm")

    def _warn_of_skull(self, pair: dict[str, Any], key: str) -> None:
        image, path = pair[key].as_tensor(), pair["paths"][key]
        if self.trained_stripped and (image == image.min()).float().mean() < _STRIPPED_BACKGROUND:
            warn(pair, f"{path}: does not look like a brain without its skull, which the network was trained on")


def _warn_of_thin_slices(pair: dict[str, Any]) -> None:
    """Warn if the header's slices are thinner than those of any stack."""
    own = Grid.from_image(pair["fixed"])
    axis = thin_axis(own)
    if axis is not None:
        warn(
            pair,
            f"{pair['paths']['fixed']}: {own.shape[axis]} slices of {own.spacing[axis]:.3g} mm are taken to be some "
            "pixels thick, which the header does not say; the results keep its millimeters",
        )


def _warn_of_coarse_grid(pair: dict[str, Any]) -> None:
    """Warn if the network grid is much coarser than the fixed image."""
    grid, own = pair["grid"], Grid.from_image(pair["fixed"]).canonical()
    steps = zip(grid.shape, grid.spacing.tolist(), own.spacing.tolist(), strict=True)
    if any(size < _FEW_VOXELS and step > 2 * own_step for size, step, own_step in steps):
        sizes = [" x ".join(f"{size:.3g}" for size in part.spacing.tolist()) for part in (grid, own)]
        shape = " x ".join(map(str, grid.shape))
        warn(
            pair,
            f"{pair['paths']['fixed']}: the network grid ({shape} voxels of {sizes[0]} mm) is much coarser than the "
            f"image ({sizes[1]} mm), so that small structures are lost; give a smaller --spacing, unless the network "
            "was trained at this one",
        )
