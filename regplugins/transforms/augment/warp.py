# SPDX-License-Identifier: Apache-2.0
"""Random warps and motions of an aligned pair of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable, Transform
from monai.utils import ensure_tuple_rep

from regplugins.checks import fraction
from regplugins.data.contrast_pairs import BETWEEN, IDENTITY, WARPED
from regplugins.data.datasets import PAIRED
from regplugins.data.random_warps import RandomWarp
from regplugins.registration.network_grid import network_grid
from regplugins.spatial import (
    Grid,
    compose_ddf,
    resample_to_grid,
    rigid_parameters,
    rigid_transform,
    warp,
)


class RandWarpPaird(Randomizable, Transform):
    """Warp both images of an aligned pair by a common random warp, and the fixed one by a second.

    The second warp is the true transform of the pair. Paired images of ``PairDataset`` are warped with their image.
    Pairs of ``ContrastPairDataset`` have a ``kind``: those of the kind "identity" are not warped by the second warp.

    Args:
        spacing: of the grid, mm.
        common: warp of both images, for variety.
        between: warp from the fixed to the moving image.
        min_amplitude: smallest factor of the second warp's displacement; the factor is drawn up to 1.

    Raises:
        ValueError: if ``min_amplitude`` is not between 0 and 1.
    """

    def __init__(
        self, spacing: Sequence[float] | float, common: RandomWarp, between: RandomWarp, min_amplitude: float = 1.0
    ) -> None:
        self.min_amplitude = fraction("min_amplitude", min_amplitude)
        self.spacing = spacing
        self.common = common
        self.between = between

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandWarpPaird:
        super().set_random_state(seed, state)
        for source in (self.common, self.between):
            source.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Args:
            data: ``moving`` and ``fixed`` ``(1, *spatial)`` on one grid, and optionally the paired images and ``kind``.

        Returns:
            The same keys and, if there is a ``kind``, ``truth``, the DDF ``(n, *spatial)`` in voxels that warps the
            moving to the fixed image. It is NaN for a pair of two people.
        """
        grid = _grid_of(data["fixed"], self.spacing)
        common, between = (source(grid).sample(grid).to_ddf()[None] for source in (self.common, self.between))
        kind = int(data.get("kind", WARPED))
        between = (0.0 if kind == IDENTITY else self.R.uniform(self.min_amplitude, 1)) * between
        fields = {"moving": common, "fixed": common if kind == IDENTITY else compose_ddf(common, between)}
        fields |= {name: fields[name.removesuffix("_paired")] for name in PAIRED if name in data}
        warped = {**data, **{key: warp(data[key][None], field)[0] for key, field in fields.items()}}
        if "kind" in data:
            warped["truth"] = torch.full_like(between[0], torch.nan) if kind == BETWEEN else between[0]
        return warped


class RandMotionPaird(Randomizable, Transform):
    """Resample an aligned pair to the network grid, by a common random warp, with a random rigid motion of the moving.

    Each image is interpolated once. Adds ``motion`` ``(6,)``, from the fixed to the moving image about the center of
    the grid, as ``regplugins.spatial.rigid_transform`` takes it.

    Args:
        spacing: of the grid, mm.
        shape: of the grid, voxels, about the center of the fixed image's field of view.
        common: warp of both images, for variety.
        rotation: largest angle about a random axis, degrees.
        translation: largest shift along each axis, mm.
        min_amplitude: smallest factor of a drawn motion's angles and shifts; the factor is drawn up to 1. With 0 small
            motions, which later passes see, are frequent.

    Raises:
        ValueError: if ``min_amplitude`` is not between 0 and 1.
    """

    def __init__(
        self,
        spacing: Sequence[float] | float,
        shape: Sequence[int],
        common: RandomWarp,
        rotation: float = 15.0,
        translation: float = 5.0,
        min_amplitude: float = 1.0,
    ) -> None:
        self.min_amplitude = fraction("min_amplitude", min_amplitude)
        self.spacing = spacing
        self.shape = tuple(shape)
        self.common = common
        self.motion = RandomWarp(0.0, rotation=rotation, translation=translation, scaling=0.0)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandMotionPaird:
        super().set_random_state(seed, state)
        for source in (self.common, self.motion):
            source.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Args:
            data: ``moving`` and ``fixed`` ``(1, *spatial)`` with their affines, of one head in one world.
        """
        grid = network_grid(Grid.from_image(data["fixed"]), self.spacing, self.shape)
        common = self.common(grid)
        motion = rigid_parameters(self.motion.affine(grid), grid.center)
        if self.min_amplitude < 1:
            motion = self.R.uniform(self.min_amplitude, 1) * motion
        transforms = {"fixed": common, "moving": common @ rigid_transform(motion, grid.center).inverse()}
        resampled = {key: resample_to_grid(data[key], grid, transform) for key, transform in transforms.items()}
        return {**data, **resampled, "motion": motion.float()}


def _grid_of(image: torch.Tensor, spacing: Sequence[float] | float) -> Grid:
    """Grid of an image ``(1, *spatial)`` without an affine."""
    shape = tuple(image.shape[1:])
    spacings = ensure_tuple_rep(spacing, len(shape))
    return Grid(shape, torch.diag(torch.tensor([*spacings, 1.0], dtype=torch.float64)))
