# SPDX-License-Identifier: Apache-2.0
"""The image pair and masks that an optimizer registers, and its levels, each at half the resolution of the next."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from monai.utils import ensure_tuple
from torch import Tensor

from regplugins.checks import positive, whole
from regplugins.spatial import crop, downsample, per_axis, upsample_ddf_by_axis, warp

# Smallest number of voxels along an axis of a downsampled image.
MIN_SIZE = 8

# Voxels of an image's grid for one voxel of a halved image or node of a field, along each axis: powers of two.
Strides = tuple[int, ...]


@dataclass(frozen=True)
class ImagePair:
    """Images and masks of a pair, all ``(B, 1, *spatial)``.

    Masks weight the voxels of their image; None: all voxels count.
    """

    moving: Tensor
    fixed: Tensor
    moving_mask: Tensor | None = None
    fixed_mask: Tensor | None = None

    @classmethod
    def of(cls, pair: Tensor, moving_mask: Tensor | None, fixed_mask: Tensor | None) -> ImagePair:
        """Split a pair ``(B, 2, *spatial)``, moving and fixed image; errors as of ``AffineRegistration``."""
        if pair.dim() not in (4, 5) or pair.shape[1] != 2:
            raise ValueError(f"expected a pair (B, 2, *spatial), got shape {tuple(pair.shape)}")
        expected = (len(pair), 1, *pair.shape[2:])
        for name, mask in (("moving_mask", moving_mask), ("fixed_mask", fixed_mask)):
            if mask is not None and tuple(mask.shape) != expected:
                raise ValueError(f"{name}: expected shape {expected}, got {tuple(mask.shape)}")
        if pair.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"expected images in float32 or float64, got {pair.dtype}")
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "an optimization needs derivatives, which torch.inference_mode forbids: use torch.no_grad"
            )
        if not pair.isfinite().all():
            raise ValueError("the images have values that are not finite")
        # Without metadata, since autograd cannot copy MONAI's MetaTensor.
        whole = cls(pair[:, :1], pair[:, 1:], moving_mask, fixed_mask)
        return whole.map(lambda image: image.as_subclass(Tensor).to(pair.dtype))

    def map(self, function: Callable[[Tensor], Tensor]) -> ImagePair:
        """The pair with a function applied to all images and masks."""
        masks = (None if mask is None else function(mask) for mask in (self.moving_mask, self.fixed_mask))
        return ImagePair(function(self.moving), function(self.fixed), *masks)

    def strides(self, halvings: int, min_size: int) -> Strides:
        """Strides after some halvings of each axis, while it keeps ``min_size`` voxels."""
        # Halving rounds up: 2 m - 1 voxels become m.
        possible = [math.ceil(math.log2(size / (2 * min_size - 1))) for size in self.fixed.shape[2:]]
        return tuple(2 ** max(0, min(halvings, most)) for most in possible)

    def pyramid(self, halvings: int, min_size: int = MIN_SIZE) -> dict[Strides, ImagePair]:
        """The pair at its own and at successively halved resolutions, by their strides, while an axis can be halved."""
        strides = self.strides(0, min_size)
        image_pairs = {strides: self}
        for depth in range(1, halvings + 1):
            finer, strides = strides, self.strides(depth, min_size)
            steps = [stride // before for stride, before in zip(strides, finer, strict=True)]
            if max(steps) == 1:
                break
            image_pairs[strides] = image_pairs[finer].map(functools.partial(downsample, strides=steps))
        return image_pairs

    def levels(
        self, schedule: Sequence[tuple[int, int]], min_size: int = MIN_SIZE
    ) -> list[tuple[Strides, ImagePair, int]]:
        """Strides, pair and number of iterations of each level of an optimization.

        ``schedule`` has the numbers of halvings and iterations, coarsest first. Levels that ``min_size``, the smallest
        number of voxels along a halved axis, makes equal are merged and keep the largest iteration count.
        """
        image_pairs = self.pyramid(schedule[0][0], min_size)
        longest: dict[Strides, int] = {}
        for halvings, iterations in schedule:
            strides = self.strides(halvings, min_size)
            longest[strides] = max(iterations, longest.get(strides, 0))
        return [(strides, image_pairs[strides], iterations) for strides, iterations in longest.items()]

    def sample(self, index: int) -> ImagePair:
        """One pair of a batch."""
        return self.map(lambda images: images[index, None])

    def swapped(self) -> ImagePair:
        """The pair with fixed and moving image swapped."""
        return ImagePair(self.fixed, self.moving, self.fixed_mask, self.moving_mask)

    def warp_moving(self, ddf: Tensor) -> ImagePair:
        """Warp the moving image and its mask by a field ``(B, n, *spatial)`` in voxels.

        The mask has no derivative: else a field could lower the cost by moving the mask off a mismatch.
        """
        moving_mask = None if self.moving_mask is None else warp(self.moving_mask, ddf.detach())
        return replace(self, moving=warp(self.moving, ddf), moving_mask=moving_mask)

    def warp_fixed(self, ddf: Tensor) -> ImagePair:
        """Warp the fixed image and its mask by a field ``(B, n, *spatial)`` in voxels."""
        return self.swapped().warp_moving(ddf).swapped()

    def mask(self, ddf: Tensor) -> Tensor | None:
        """Product of the fixed and the warped moving mask, for a field ``(B, n, *spatial)`` in voxels.

        It has no derivative, as in ``warp_moving``.
        """
        if self.moving_mask is None:
            return self.fixed_mask
        warped = warp(self.moving_mask, ddf.detach())
        return warped if self.fixed_mask is None else warped * self.fixed_mask


# Spacing in mm to which levels and distances refer where the grid's spacing is automatic.
REFERENCE_SPACING = 2.0


def resample_ddf(ddf: Tensor, source: Strides, target: Strides, shape: Sequence[int]) -> Tensor:
    """Resample a field between two resolutions of a grid, given by their strides.

    The field and the result are ``(B, n, *spatial)`` in voxels of their own grids; ``shape`` is that of the full grid.
    """
    while any(map(operator.lt, source, target)):
        steps = [1 + (now < wanted) for now, wanted in zip(source, target, strict=True)]
        ddf = downsample(ddf, steps) / per_axis(steps, ddf)
        source = tuple(map(operator.mul, source, steps))
    while source != target:
        steps = [1 + (now > wanted) for now, wanted in zip(source, target, strict=True)]
        source = tuple(map(operator.floordiv, source, steps))
        sizes = [math.ceil(size / stride) for size, stride in zip(shape, source, strict=True)]
        ddf = crop(upsample_ddf_by_axis(ddf, steps), sizes)
    return ddf


def level_halvings(
    levels: Sequence[tuple[float, int]], spacing: float | Sequence[float] | None
) -> list[tuple[int, int]]:
    """Number of halvings, after which the grid's spacing is nearest to that of the level, and of iterations, by level.

    ``levels`` are spacings in mm and numbers of iterations, coarsest first. Raises ``ValueError`` if it is empty, not
    ordered coarse to fine, or has an iteration count below 1, or if a spacing is not positive.
    """
    given = levels if isinstance(levels, list | tuple) else []
    if not given or not all(isinstance(level, list | tuple) and len(level) == 2 for level in given):
        raise ValueError(f"levels must be pairs of a spacing in mm and a number of iterations, got {levels}")
    counts = [whole("the iterations of a level", count) for _, count in levels]
    sizes = [positive("the spacing of a level", size) for size, _ in levels]
    if sizes != sorted(sizes, reverse=True):
        raise ValueError(f"the coarsest level must come first, got {sizes}")
    halvings = [max(0, round(math.log2(size / min_spacing(spacing)))) for size in sizes]
    return list(zip(halvings, counts, strict=True))


def min_spacing(spacing: float | Sequence[float] | None) -> float:
    """Smallest voxel size of a grid in mm, given as one number or one per axis; None: ``REFERENCE_SPACING``."""
    return min(positive("spacing", size) for size in ensure_tuple(REFERENCE_SPACING if spacing is None else spacing))
