# SPDX-License-Identifier: Apache-2.0
"""Random fields of view: cropped and padded volumes, patches and slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Randomizable, SpatialCrop, Transform
from monai.transforms.utils import weighted_patch_samples


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
        min_foreground: smallest number of foreground voxels (above 0 in the normalized fixed image) of a slice, as a
            fraction of that of the fullest slice.

    Raises:
        ValueError: ``min_foreground`` is not between 0 and 1.
    """

    def __init__(self, axis: int = 2, min_foreground: float = 0.3) -> None:
        if not 0 <= min_foreground <= 1:
            raise ValueError(f"min_foreground must be between 0 and 1, got {min_foreground}")
        self.axis = axis
        self.min_foreground = min_foreground

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Args:
            data: ``fixed`` and what else there is, ``(C, *spatial)`` on one 3-D grid.

        Returns:
            The same keys, ``(C, *spatial)`` of two axes.
        """
        others = tuple(axis for axis in range(4) if axis != self.axis + 1)
        filled = (data["fixed"] > 0).sum(dim=others)
        slices = (filled >= self.min_foreground * filled.max()).nonzero().flatten()
        number = int(slices[self.R.randint(len(slices))])
        return {key: image.select(self.axis + 1, number) for key, image in data.items()}
