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

from regplugins.checks import fraction


class RandFieldOfViewd(Randomizable, Transform):
    """Crop random slices at each face of an image, and pad them with the border or with the image's minimum.

    The field of view and the padding then do not reveal the position of a head.

    Args:
        keys: images ``(1, *spatial)`` with their affines.
        max_crop: largest fraction of the slices to crop at a face.
        padding: voxels to pad beyond the original faces.

    Raises:
        ValueError: if ``max_crop`` is not in [0, 0.5), or ``padding`` is negative.
    """

    def __init__(self, keys: Sequence[str] = ("image",), max_crop: float = 0.1, padding: int = 4) -> None:
        if not 0 <= max_crop < 0.5 or padding < 0:
            raise ValueError(f"max_crop must be in [0, 0.5) and padding at least 0, got {max_crop} and {padding}")
        self.keys = tuple(keys)
        self.max_crop = max_crop
        self.padding = padding

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {**data, **{key: self._crop_and_pad(data[key]) for key in self.keys}}

    def _crop_and_pad(self, image: MetaTensor) -> MetaTensor:
        values, affine = image.as_tensor(), image.affine.clone()
        minimum = values.min()
        for axis, size in enumerate(image.shape[1:], start=1):
            first, last = (int(self.R.uniform(0, self.max_crop) * size) for _ in range(2))
            last = size - 1 - last
            index = torch.arange(-self.padding, size + self.padding)
            values = values.index_select(axis, index.clamp(first, last))
            for outside in (index < first, index > last):
                if self.R.uniform() < 0.5:
                    values = values.index_fill(axis, outside.nonzero().flatten(), float(minimum))
        affine[:-1, -1] -= affine[:-1, :-1].sum(dim=1) * self.padding
        return MetaTensor(values, affine=affine)


class RandPatchPaird(Randomizable, Transform):
    """Crop all images of a pair to a patch at one random position, preferably in the fixed image's foreground.

    The network's output is smaller than its input by ``margin`` voxels on each side. The output lies within the images;
    the border is replicated into the margin.

    Args:
        shape: of the patch, with its margins.
        margin: of the network, voxels.
        background: relative probability of a patch whose center is background (0 in the normalized image).

    Raises:
        ValueError: if the patch is not larger than its margins, or ``background`` is not between 0 and 1.
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
            data: ``fixed`` and other images, ``(C, *spatial)`` on one grid. Scalars are kept.

        Returns:
            The same keys, ``(C, *shape)``.
        """
        sizes = data["fixed"].shape[1:]
        padding: list[int] = []
        for size, patch in zip(reversed(sizes), reversed(self.shape), strict=True):
            missing = max(0, patch - size - 2 * self.margin)  # a small image is centered in the patch
            padding += [self.margin + missing // 2, self.margin + missing - missing // 2]
        weight = F.pad((data["fixed"] > 0).float().clamp(min=self.background), padding)[0]
        # MONAI never draws the last position along an axis, so append one.
        weight = F.pad(weight, [0, 1] * weight.ndim)
        (center,) = weighted_patch_samples(self.shape, weight, r_state=self.R)
        crop = SpatialCrop(roi_center=center, roi_size=self.shape)
        return {
            key: crop(F.pad(image[None], padding, mode="replicate")[0]) if image.ndim > 1 else image
            for key, image in data.items()
        }


class RandSlicePaird(Randomizable, Transform):
    """Select one random slice of all images of a pair, for 2-D methods.

    Args:
        axis: normal to the slices.
        min_foreground: smallest number of foreground voxels (above 0 in the normalized fixed image) of a slice, as a
            fraction of the largest number of any slice.

    Raises:
        ValueError: if ``min_foreground`` is not between 0 and 1.
    """

    def __init__(self, axis: int = 2, min_foreground: float = 0.3) -> None:
        self.axis = axis
        self.min_foreground = fraction("min_foreground", min_foreground)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Args:
            data: ``fixed`` and other images, ``(C, *spatial)`` on one 3-D grid. Scalars are kept.

        Returns:
            The same keys, 2-D ``(C, *spatial)``.
        """
        others = tuple(axis for axis in range(4) if axis != self.axis + 1)
        foreground = (data["fixed"] > 0).sum(dim=others)
        slices = (foreground >= self.min_foreground * foreground.max()).nonzero().flatten()
        number = int(slices[self.R.randint(len(slices))])
        return {key: image.select(self.axis + 1, number) if image.ndim > 1 else image for key, image in data.items()}
