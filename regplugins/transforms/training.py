# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that prepare single images for training on pairs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Randomizable, SpatialCrop, Transform
from monai.transforms.utils import weighted_patch_samples

from regplugins.checks import positive
from regplugins.data.datasets import PAIRED
from regplugins.data.random_warps import RandomWarp
from regplugins.spatial import (
    Grid,
    averaged,
    compose,
    onto_grid,
    resample,
    resample_labels,
    rigid_parameters,
    warp,
)
from regplugins.transforms.pair import network_grid, normalize


class OntoNetworkGridd(Transform):
    """Bring an ``image`` and, if there is one, its ``label`` onto a grid of given size about the center of the field of
    view.

    Two images of one orientation prepared so stand to each other as ``init: fov`` brings a pair together. Adds
    ``mask``: 1 where the image is known.

    Args:
        spacing: mm.
        shape: number of voxels an axis.
    """

    def __init__(self, spacing: Sequence[float] | float, shape: Sequence[int]) -> None:
        self.spacing = spacing
        self.shape = tuple(shape)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """
        Returns:
            ``image`` ``(1, *shape)`` in [0, 1], ``mask`` ``(1, *shape)``, and ``label`` ``(1, *shape)`` int32.

        Raises:
            ValueError: a structure of the label does not fit into the grid.
        """
        source = Grid.from_image(data["image"])
        target = network_grid(source, self.spacing, self.shape)
        record = {
            "image": normalize(onto_grid(data["image"], target)),
            "mask": resample(torch.ones(1, *source.shape), source, target),
        }
        if "label" in data:
            label = data["label"].as_tensor()
            record["label"] = resample_labels(label, source, target)
            voxels = label[0].nonzero().to(torch.float64)
            lost = ~target.contains(source.index_to_world(voxels))
            if lost.any():
                raise ValueError(
                    f"{int(lost.sum())} labeled voxels lie outside the training grid of {self.shape} voxels"
                )
        return record


class RandWarpPaird(Randomizable, Transform):
    """Warp both images of a pair by one random map and the fixed one by another besides: two images that were aligned
    then differ by the second map. What is aligned with an image (``PairDataset``'s paired ones) goes along.

    Args:
        spacing: of the grid, mm.
        common: of both images, for variety.
        between: from the fixed image to the moving one.
    """

    def __init__(self, spacing: Sequence[float] | float, common: RandomWarp, between: RandomWarp) -> None:
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
            data: ``moving`` and ``fixed`` ``(1, *spatial)`` on one grid, and perhaps the paired ones.

        Returns:
            The same keys.
        """
        grid = _grid_of(data["fixed"], self.spacing)
        common, between = (source(grid).sample(grid).to_ddf()[None] for source in (self.common, self.between))
        fields = {"moving": common, "fixed": compose(common, between)}
        fields |= {name: fields[name.removesuffix("_paired")] for name in PAIRED if name in data}
        return {**data, **{key: warp(data[key][None], field)[0] for key, field in fields.items()}}


class AverageVolumed(Transform):
    """Average the voxels of an ``image`` in blocks, as ``onto_grid`` does on the way to a grid of this spacing: once,
    where images are to be brought onto such grids many times.

    Args:
        spacing: mm, one number or one an axis, the smallest of which counts.
    """

    def __init__(self, spacing: Sequence[float] | float) -> None:
        steps = spacing if isinstance(spacing, (list, tuple)) else [spacing]
        self.spacing = min(positive("spacing", step) for step in steps)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        image = data["image"]
        values, grid = averaged(image.as_tensor(), Grid.from_image(image), self.spacing)
        return {**data, "image": MetaTensor(values, affine=grid.affine)}


class RandFieldOfViewd(Randomizable, Transform):
    """Cut off random slices at each face of an image and go on, for some way beyond the face, with what was cut last or
    with the image's least value: what a scanner saw, and what there is where it saw nothing, must not tell where a head
    is.

    Args:
        keys: images ``(1, *spatial)`` with their affines.
        cut: largest share of the slices to be cut at a face.
        room: voxels to go on beyond the faces.

    Raises:
        ValueError: a share that leaves nothing, or negative numbers.
    """

    def __init__(self, keys: Sequence[str] = ("image",), cut: float = 0.1, room: int = 4) -> None:
        if not 0 <= cut < 0.5 or room < 0:
            raise ValueError(f"cut must be at least 0 and below 0.5 and room at least 0, got {cut} and {room}")
        self.keys = tuple(keys)
        self.cut = cut
        self.room = room

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {**data, **{key: self._seen(data[key]) for key in self.keys}}

    def _seen(self, image: MetaTensor) -> MetaTensor:
        values, affine = image.as_tensor(), image.affine.clone()
        least = values.min()
        for axis, size in enumerate(image.shape[1:], start=1):
            first, last = (int(self.R.uniform(0, self.cut) * size) for _ in range(2))
            last = size - 1 - last
            wanted = torch.arange(-self.room, size + self.room)
            values = values.index_select(axis, wanted.clamp(first, last))
            for beyond in (wanted < first, wanted > last):
                if self.R.uniform() < 0.5:
                    values = values.index_fill(axis, beyond.nonzero().flatten(), float(least))
        affine[:-1, -1] -= affine[:-1, :-1].sum(dim=1) * self.room
        return MetaTensor(values, affine=affine)


class RandMotionPaird(Randomizable, Transform):
    """Bring both images of an aligned pair onto the network's grid, warped by one random map, and the moving one turned
    and shifted besides, with one interpolation. Adds ``motion`` ``(6,)``, from the fixed to the moving image about the
    center of the grid, what ``regplugins.spatial.rigid_transform`` takes.

    Args:
        spacing: of the grid, mm.
        shape: of the grid, voxels, about the center of the fixed image's field of view.
        common: of both images, for variety.
        rotation: largest angle about a random axis, degrees.
        translation: largest shift along each axis, mm.
    """

    def __init__(
        self,
        spacing: Sequence[float] | float,
        shape: Sequence[int],
        common: RandomWarp,
        rotation: float = 15.0,
        translation: float = 5.0,
    ) -> None:
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
        common, motion = self.common(grid), self.motion.affine(grid)
        ways = {"fixed": common, "moving": common @ motion.inverse()}
        moved = {key: onto_grid(data[key], grid, way) for key, way in ways.items()}
        return {**data, **moved, "motion": rigid_parameters(motion, grid.center).float()}


def _grid_of(image: torch.Tensor, spacing: Sequence[float] | float) -> Grid:
    """Where the voxels of an image ``(1, *spatial)`` lie, in a world of its own."""
    shape = tuple(image.shape[1:])
    steps = spacing if isinstance(spacing, (list, tuple)) else [spacing] * len(shape)
    return Grid(shape, torch.diag(torch.tensor([*steps, 1.0], dtype=torch.float64)))


class RandPatchPaird(Randomizable, Transform):
    """Cut all images of a pair to a patch at one random place, rather where the fixed image is not background.

    The network sees ``margin`` voxels about the part for which it gives a field: that part lies within the images, and
    where the margin does not their border continues.

    Args:
        shape: of the patch, margin included.
        margin: of the network, voxels.
        background: weight of a place whose middle is background (0 of the normalized image), that of another being one.

    Raises:
        ValueError: the patch is all margin, or ``background`` is not between 0 and 1.
    """

    def __init__(self, shape: Sequence[int], margin: int = 0, background: float = 0.05) -> None:
        if min(shape) <= 2 * margin or not 0 <= background <= 1:
            raise ValueError(
                f"the patch must be larger than its margins and background between 0 and 1, got {shape}, {margin} and "
                f"{background}"
            )
        self.shape = tuple(shape)
        self.margin = margin
        self.background = background

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Args:
            data: ``fixed`` and what else there is, ``(C, *spatial)`` on one grid.

        Returns:
            The same keys, ``(C, *shape)``.
        """
        sizes = data["fixed"].shape[1:]
        padding: list[int] = []
        for size, patch in zip(reversed(sizes), reversed(self.shape), strict=True):
            lacking = max(0, patch - size - 2 * self.margin)  # a patch larger than the image has it in the middle
            padding += [self.margin + lacking // 2, self.margin + lacking - lacking // 2]
        weight = F.pad((data["fixed"] > 0).float().clamp(min=self.background), padding)[0]
        # MONAI never draws the last place along an axis: here that is one past the last.
        weight = F.pad(weight, [0, 1] * weight.ndim)
        (center,) = weighted_patch_samples(self.shape, weight, r_state=self.R)
        cut = SpatialCrop(roi_center=center, roi_size=self.shape)
        return {key: cut(F.pad(image[None], padding, mode="replicate")[0]) for key, image in data.items()}


class RandSlicePaird(Randomizable, Transform):
    """Take one slice of all images of a pair, for methods in 2-D.

    Args:
        axis: across the slices.
        least: of the voxels of a slice, how many are not background (0 of the normalized fixed image), as a fraction of
            those of the fullest one.

    Raises:
        ValueError: ``least`` is not between 0 and 1.
    """

    def __init__(self, axis: int = 2, least: float = 0.3) -> None:
        if not 0 <= least <= 1:
            raise ValueError(f"least must be between 0 and 1, got {least}")
        self.axis = axis
        self.least = least

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Args:
            data: ``fixed`` and what else there is, ``(C, *spatial)`` on one 3-D grid.

        Returns:
            The same keys, ``(C, *spatial)`` of two axes.
        """
        others = tuple(axis for axis in range(4) if axis != self.axis + 1)
        filled = (data["fixed"] > 0).sum(dim=others)
        slices = (filled >= self.least * filled.max()).nonzero().flatten()
        number = int(slices[self.R.randint(len(slices))])
        return {key: image.select(self.axis + 1, number) for key, image in data.items()}


class LabelChannelsd(Transform):
    """One-hot encode ``label``: ``(1, *spatial)`` integers to ``(num_classes, *spatial)`` float32, background left out.

    Args:
        num_classes: structures, labeled 1 to ``num_classes``.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        label = data["label"][0].long()
        if int(label.max()) > self.num_classes or int(label.min()) < 0:
            raise ValueError(f"labels from 0 to {self.num_classes} expected, found {label.unique().tolist()}")
        channels = F.one_hot(label, self.num_classes + 1)[..., 1:].movedim(-1, 0)
        return {**data, "label": channels.float()}
