# SPDX-License-Identifier: Apache-2.0
"""How a pair of images meets on the network's grid, and how the network's field comes home to the world."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.transforms.utils_pytorch_numpy_unification import percentile
from torch import Tensor

from regplugins.checks import boolean, number
from regplugins.prealign import CHOICES, Volume, initial_transform, polish
from regplugins.spatial import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Grid,
    onto_grid,
    overlap,
    resample,
    resample_labels,
)
from regplugins.spatial import Transform as SpatialTransform
from regplugins.transforms.timing import stage

logger = logging.getLogger(__name__)

# The background of a stripped brain takes half of the box around it; a whole head's is noise, not one value.
_STRIPPED_BACKGROUND = 0.2


def network_grid(grid: Grid, spacing: Sequence[float] | float, shape: Sequence[int] | None = None) -> Grid:
    """Grid on which a network sees an image: about the same centre, its axes those of the image that are nearest to
    RAS+.

    Args:
        grid: of the image.
        spacing: voxel size in mm, one number or one an axis.
        shape: number of voxels an axis; default: as many as cover the image's field of view.

    Raises:
        ValueError: the spacing is none.
    """
    given = spacing if isinstance(spacing, (list, tuple)) else [spacing] * grid.ndim
    sizes = [number("spacing", size) for size in given]
    if len(sizes) != grid.ndim or min(sizes) <= 0:
        raise ValueError(f"spacing must be one number or {grid.ndim}, greater than 0, got {spacing}")
    return grid.canonical().resized(sizes, shape)


def normalise(image: Tensor, lower: float = 1.0, upper: float = 99.0) -> Tensor:
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
        ValueError: as ``initial_transform`` does, with the names of the files.
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
        raise ValueError(f"{pair['paths']['fixed']} and {pair['paths']['moving']}: {error}") from error


def meet(fixed: MetaTensor, moving: MetaTensor, grid: Grid, initial: SpatialTransform) -> Tensor:
    """Both images, ``(1, *spatial)``, normalised, on a grid in the fixed one's world: ``(2, *grid.shape)``, moving and
    fixed.
    """
    return torch.cat([normalise(onto_grid(moving, grid, initial)), normalise(onto_grid(fixed, grid))])


def masks_on(
    grid: Grid, pair: Mapping[str, Any], initial: SpatialTransform, device: str | torch.device | None = None
) -> dict[str, Tensor]:
    """A loaded pair's masks, those that there are, on a grid in the fixed image's world.

    Returns:
        ``fixed_mask`` and ``moving_mask``, ``(1, 1, *grid.shape)`` in [0, 1]; beyond a mask nothing counts.
    """
    masks = {}
    for name, way in (("fixed_mask", None), ("moving_mask", initial)):
        if name in pair:
            values = (pair[name].as_tensor() != 0).to(torch.float32)
            masks[name] = resample(values, Grid.from_image(pair[name]), grid, way)[None].to(device)
    return masks


class MeetPaird(Transform):
    """Bring both images onto the network's grid in the fixed image's world and normalise them.

    Adds ``pair`` ``(2, *spatial)`` (moving, fixed), ``grid``, ``initial``, the transform from the fixed to the moving
    world by which the moving image came, and ``masks``, those that are to come along; the originals stay untouched.

    Args:
        spacing: of the network's grid, mm.
        init: "none", "fov", "centre", "rigid", "affine" or a transform file, see ``regplugins.prealign``.
        seed: of a registration by mutual information.
        trained_extent: size in mm, along the axes nearest to RAS, of what the network was trained on; a fixed image
            half or twice that size along an axis gets a warning.
        trained_stripped: the network was trained on brains without their skulls, all else one dark value; an image
            without such a background gets a warning.
        masks: bring masks along, for what optimises; networks do not look at them.
        shape: of the network's grid, about the centre of the fixed image's field of view; default: all of that.
    """

    def __init__(
        self,
        spacing: Sequence[float] | float,
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
                if pair.get("exchanged"):  # a file goes the way that the pair was given
                    initial = initial.inverse()
                pair["paths"] = {**pair["paths"], "init": self.init}
        with stage(pair, "meet"):
            grid = network_grid(fixed_grid, self.spacing, self.shape)
            if not overlap(grid, moving_grid, initial):
                raise ValueError(
                    f"{pair['paths']['fixed']} and {pair['paths']['moving']} do not overlap in the world "
                    f"(init '{self.init}'); try --init centre or --init rigid"
                )
            pair |= {"pair": meet(fixed, moving, grid, initial), "grid": grid, "initial": initial}
            pair["masks"] = masks_on(grid, pair, initial) if self.masks else {}
        self._warn_of_other_extent(pair["paths"]["fixed"], network_grid(fixed_grid, self.spacing))
        for key in ("fixed", "moving"):
            self._warn_of_skull(pair["paths"][key], pair[key].as_tensor())
        return pair

    def _warn_of_other_extent(self, path: str, grid: Grid) -> None:
        if self.trained_extent is None:
            return
        extent = [size * step for size, step in zip(grid.shape, grid.spacing.tolist(), strict=True)]
        if any(not 0.5 < own / trained < 2 for own, trained in zip(extent, self.trained_extent, strict=True)):
            sizes = [" x ".join(f"{size:.0f}" for size in sizes) for sizes in (extent, self.trained_extent)]
            logger.warning("%s: %s mm, but the network was trained on some %s mm", path, *sizes)

    def _warn_of_skull(self, path: str, image: Tensor) -> None:
        if self.trained_stripped and (image == image.min()).float().mean() < _STRIPPED_BACKGROUND:
            logger.warning("%s: does not look like a brain without its skull, which the network was trained on", path)


class _Carrier(Transform):
    """Sends the original moving image and labels through a transform, once; see ``CarryPaird``."""

    def __init__(self, interpolation: str = "linear", label_interpolation: str = "nearest", fill: float = 0.0) -> None:
        for name, mode in (("interpolation", interpolation), ("label_interpolation", label_interpolation)):
            if mode not in ("linear", "nearest"):
                raise ValueError(f"{name} must be 'linear' or 'nearest', got '{mode}'")
        self.interpolation = interpolation
        self.label_interpolation = label_interpolation
        self.fill = number("fill", fill)

    def _carry(
        self, pair: dict[str, Any], start: AffineTransform, initial: AffineTransform, field: DisplacementField
    ) -> None:
        with stage(pair, "warp"):
            fixed_grid = Grid.from_image(pair["fixed"])
            displacement = field if field.grid.matches(fixed_grid) else field.sample(fixed_grid)
            transform = initial @ displacement
            self._resample(pair, "warped", fixed_grid, transform)
            if "fixed_landmarks" in pair:
                pair["warped_landmarks"] = transform(pair["fixed_landmarks"])
        with stage(pair, "before"):
            self._resample(pair, "before", fixed_grid, start)
        with stage(pair, "invert"):
            # Where the field was given: on a scan of 500 voxels an axis the inverse takes gigabytes.
            inverse = field.inverse()
        pair |= {"start": start, "initial": initial, "field": field, "inverse": inverse, "displacement": displacement}

    def _resample(self, pair: dict[str, Any], name: str, target: Grid, transform: SpatialTransform) -> None:
        source = Grid.from_image(pair["moving"])
        pair[name] = resample(pair["moving"].as_tensor(), source, target, transform, self.interpolation, self.fill)
        if "moving_label" in pair:
            label = pair["moving_label"].as_tensor()
            pair[f"{name}_label"] = resample_labels(label, source, target, transform, self.label_interpolation)


class CarryPaird(_Carrier):
    """Send the original moving image and labels through a known transform, once: one from a file, of any tool.

    Adds ``initial`` (the transform's outermost part where that is affine, else the identity), ``field`` (the rest) and
    ``inverse`` (of ``field``), ``displacement`` (``field`` on the fixed image's grid; ``x_moving = initial(x +
    displacement(x))``), ``warped``, ``warped_label``, ``warped_landmarks`` (the fixed ones carried to the moving
    image), and what registration is compared with: ``start``, ``before`` and ``before_label`` (through ``start``).

    Args:
        transform: from the fixed to the moving world.
        interpolation: of the image, "linear" or "nearest".
        label_interpolation: "nearest", or "linear" for a linear one of each class.
        fill: value of the image outside the moving one.
        start: default: the identity, the world as the files have it.
    """

    def __init__(
        self,
        transform: SpatialTransform,
        interpolation: str = "linear",
        label_interpolation: str = "nearest",
        fill: float = 0.0,
        start: AffineTransform | None = None,
    ) -> None:
        super().__init__(interpolation, label_interpolation, fill)
        self.transform = transform
        self.start = start

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            ValueError: the transform is of another dimension than the images, or takes no voxel into the moving one.
        """
        pair = dict(data)
        grid = Grid.from_image(pair["fixed"])
        if self.transform.ndim != grid.ndim:
            raise ValueError(f"{pair['paths']['fixed']}: {grid.ndim}-D, the transform is {self.transform.ndim}-D")
        if not overlap(grid, Grid.from_image(pair["moving"]), self.transform):
            paths = pair["paths"]
            raise ValueError(f"{paths['fixed']} and {paths['moving']} do not overlap through the transform")
        initial = AffineTransform.identity(grid.ndim)
        first, *others = CompositeTransform([self.transform]).transforms
        if isinstance(first, AffineTransform):
            initial = first
        else:
            others.insert(0, first)
        rest = CompositeTransform(others or [AffineTransform.identity(grid.ndim)])
        self._carry(pair, self.start or AffineTransform.identity(grid.ndim), initial, rest.sample(grid))
        return pair


class ReturnPaird(_Carrier):
    """Turn the network's field into a transform of the world and carry the pair through it as ``CarryPaird`` does.

    ``start`` is the initial transform: what the network itself adds is judged.

    Reads ``pred`` ``(1, n, *spatial)``, the DDF in voxels of ``grid``, and ``initial``; of a network of both directions
    (``ReversePaird``) the first ``n`` components.

    Args:
        interpolation: of the image, "linear" or "nearest".
        label_interpolation: "nearest", or "linear" for a linear one of each class.
        fill: value of the image outside the moving one.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        pair = dict(data)
        # Waits for the device, so that the network's time is its own.
        ddf = pair["pred"][0, : pair["grid"].ndim].detach().float().cpu()
        if "started" in pair:
            pair["seconds"]["network"] = time.perf_counter() - pair["started"]
        self._carry_through(pair, DisplacementField.from_ddf(ddf, pair["grid"]))
        return pair

    def _carry_through(self, pair: dict[str, Any], field: DisplacementField) -> None:
        self._carry(pair, pair["initial"], pair["initial"], field)


class ReturnRigidPaird(ReturnPaird):
    """The same for a network whose field is a rigid motion: that goes into the affine part, ``initial``, and the field
    becomes the identity. Adds ``predicted``, the transform as the network gave it.

    Args:
        polish: maximise the mutual information from there and from the start, and keep the better.
        seed: of its choice of samples.
        interpolation: of the image, "linear" or "nearest".
        label_interpolation: "nearest", or "linear" for a linear one of each class.
        fill: value of the image outside the moving one.
        masked: where the images' masks are set. False: everywhere, for pairs whose mask says where to measure.

    Raises:
        TypeError: ``polish`` or ``masked`` is no boolean.
    """

    def __init__(
        self,
        polish: bool = True,
        seed: int = 0,
        interpolation: str = "linear",
        label_interpolation: str = "nearest",
        fill: float = 0.0,
        masked: bool = True,
    ) -> None:
        super().__init__(interpolation, label_interpolation, fill)
        self.polish = boolean("polish", polish)
        self.masked = boolean("masked", masked)
        self.seed = seed

    def _carry_through(self, pair: dict[str, Any], field: DisplacementField) -> None:
        start = pair["initial"]
        pair["predicted"] = AffineTransform(start.matrix @ AffineTransform.fitted(field, field.grid).matrix)
        transform = pair["predicted"]
        if self.polish:
            with stage(pair, "polish"):
                fixed, moving = (
                    Volume.prepare(
                        key,
                        pair[key],
                        Grid.from_image(pair[key]),
                        pair.get(f"{key}_mask") if self.masked else None,
                    )
                    for key in ("fixed", "moving")
                )
                # A network that has lost its way must not take a good start with it.
                transform = polish(fixed, moving, [transform, start], self.seed)
        self._carry(pair, start, transform, AffineTransform.identity(field.ndim).sample(field.grid))
