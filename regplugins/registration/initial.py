# SPDX-License-Identifier: Apache-2.0
"""Initial transform of a pair: identity, centers, mutual information or a file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from regplugins.io import read_transform
from regplugins.registration.deformable import clearly_lowest
from regplugins.registration.intensity import scale_percentiles
from regplugins.registration.mutual_information import maximize_mutual_information
from regplugins.registration.network_grid import automatic_spacing, resample_pair
from regplugins.registration.poses import align_centers_of_mass, align_fields_of_view
from regplugins.registration.presets import PresetRegistration
from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform, CompositeTransform, Grid, overlap

logger = logging.getLogger(__name__)

AUTO_INIT = "auto"
INIT_CHOICES = (AUTO_INIT, "none", "fov", "center", "rigid", "affine")
# Relative gain in cost, above that of equal images, that the images as they are need. Chosen by tuning pairs: livers
# gain 5 % and lose a third of their error, chests gain up to 8 % and lose up to 1 % of Dice, others gain less than 1 %.
_CLEAR_GAIN = 0.035


def initial_transform(
    init: str,
    fixed: MetaTensor,
    moving: MetaTensor,
    seed: int = 0,
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
) -> tuple[str, AffineTransform]:
    """Initial affine transform of a pair.

    "auto" is "affine", or "none" if a coarse registration of the images as they are ends at a clearly lower cost: an
    affine transform may fit what slides along the wall of a body and move the wall. With masks it is "affine", since
    costs under unlike masks do not compare.

    Args:
        init: "none" (identity), "fov" (centers of the fields of view), "center" (centers of mass of the foreground),
            "rigid" or "affine" (mutual information, from the best of these three, of rotated and of shifted starts),
            "auto", or a file that holds an affine transform.
        fixed: image ``(1, *spatial)``.
        moving: image ``(1, *spatial)``.
        seed: of the samples of the mutual information.
        fixed_mask: on the fixed image's grid, zero where voxels are ignored; default: all voxels count.
        moving_mask: on the moving image's grid, likewise.

    Returns:
        ``init``, or what was chosen for "auto", and the transform from the fixed to the moving world, RAS+ mm.

    Raises:
        ValueError: if ``init`` is unknown, the file holds no affine transform of this dimension, an image is constant,
            not finite or does not match its mask, or the images do not overlap from any start.
    """
    fixed_grid, moving_grid = Grid.from_image(fixed), Grid.from_image(moving)
    n = fixed_grid.ndim
    if moving_grid.ndim != n:
        raise ValueError(f"a {n}-D fixed image and a {moving_grid.ndim}-D moving one cannot be aligned")
    if init not in INIT_CHOICES:
        return init, _from_file(init, n)
    if init == AUTO_INIT:
        _, affine = initial_transform("affine", fixed, moving, seed, fixed_mask, moving_mask)
        candidates = {"affine": affine, "none": AffineTransform.identity(n)}
        has_masks = fixed_mask is not None or moving_mask is not None
        if has_masks:
            logger.info("init affine: the only choice with masks")
        name = "affine" if has_masks else _best_start(fixed, moving, candidates)
        return name, candidates[name]
    if init == "none":
        return init, AffineTransform.identity(n)
    if init == "fov":
        return init, align_fields_of_view(fixed_grid, moving_grid)
    fixed_volume = Volume.prepare("fixed", fixed.as_tensor(), fixed_grid, fixed_mask)
    moving_volume = Volume.prepare("moving", moving.as_tensor(), moving_grid, moving_mask)
    center = align_centers_of_mass(fixed_volume, moving_volume)
    if init == "center":
        return init, center
    starts = [center, align_fields_of_view(fixed_grid, moving_grid), AffineTransform.identity(n)]
    return init, maximize_mutual_information(init, fixed_volume, moving_volume, starts, seed)


def _best_start(fixed: MetaTensor, moving: MetaTensor, candidates: Mapping[str, AffineTransform]) -> str:
    """Name of the first transform that lets the images overlap, unless another ends at a clearly lower cost.

    The costs are those of ``multimodal`` at 8 mm, or 24 voxels, above those of equal images.
    """
    grid, moving_grid = Grid.from_image(fixed).canonical(), Grid.from_image(moving)
    # By that level the threshold was chosen; finer ones cost much more.
    grid = grid.resized([2 * size for size in automatic_spacing(grid, voxels=96)])
    names = [name for name, start in candidates.items() if overlap(grid, moving_grid, start)]
    if len(names) < 2:
        name = next(iter(names or candidates))
        logger.info("init %s: the images do not overlap from any other start", name)
        return name
    costs = [_mismatch(resample_pair(fixed, moving, grid, candidates[name])) for name in names]
    name = names[clearly_lowest(costs, _CLEAR_GAIN)]
    shown = ", ".join(f"{cost:.4g} from {start}" for start, cost in zip(names, costs, strict=True))
    logger.info("init %s: cost above that of equal images %s", name, shown)
    return name


def _mismatch(pair: Tensor) -> float:
    """Cost of ``(2, *spatial)`` above that of equal images after a coarse deformable registration."""
    coarse = PresetRegistration("multimodal", levels=[[4.0, 40]]).registration("multimodal")
    images = torch.stack([scale_percentiles(image) for image in pair])[None]
    return coarse.excess_cost(images, coarse(images))


def _from_file(init: str, ndim: int) -> AffineTransform:
    if init == "centre":
        raise ValueError("init=centre: use center")
    expected = f"init must be one of {', '.join(INIT_CHOICES)} or a transform file"
    if not isinstance(init, str | Path):
        raise ValueError(f"{expected}, got {init!r}")
    if not Path(init).is_file():
        raise ValueError(f"{expected}, got '{init}', which is no file")
    transform = read_transform(init)
    if isinstance(transform, CompositeTransform) and len(transform.transforms) == 1:
        (transform,) = transform.transforms
    if not isinstance(transform, AffineTransform):
        raise ValueError(f"{init}: holds a {type(transform).__name__}, an initial transform must be affine")
    if transform.ndim != ndim:
        raise ValueError(f"{init}: holds a {transform.ndim}-D transform, the images are {ndim}-D")
    return transform
