# SPDX-License-Identifier: Apache-2.0
"""The image pair and masks that an optimizer registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regplugins.spatial import downsample, warp

# Smallest number of voxels along an axis of a downsampled image.
MIN_SIZE = 8


def as_tensor(tensor: Tensor) -> Tensor:
    """Tensor without metadata, since autograd cannot copy MONAI's ``MetaTensor``."""
    return tensor.as_subclass(Tensor)


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
        """Split a pair ``(B, 2, *spatial)``, moving and fixed image.

        Raises:
            TypeError: if the images are not float32 or float64.
            RuntimeError: in ``torch.inference_mode``, which forbids derivatives.
        """
        if pair.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"expected images in float32 or float64, got {pair.dtype}")
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "an optimization needs derivatives, which torch.inference_mode forbids: use torch.no_grad"
            )
        pair = as_tensor(pair)
        masks = (None if mask is None else as_tensor(mask) for mask in (moving_mask, fixed_mask))
        return cls(pair[:, :1], pair[:, 1:], *masks)

    def downsampled(self) -> ImagePair:
        """The pair at half the resolution."""
        return ImagePair(
            downsample(self.moving),
            downsample(self.fixed),
            None if self.moving_mask is None else downsample(self.moving_mask),
            None if self.fixed_mask is None else downsample(self.fixed_mask),
        )

    def pyramid(self, halvings: int, min_size: int = MIN_SIZE) -> list[ImagePair]:
        """The pair at its own and at successively halved resolutions, while all axes keep ``min_size`` voxels."""
        image_pairs = [self]
        while len(image_pairs) <= halvings and min(image_pairs[-1].moving.shape[2:]) >= 2 * min_size:
            image_pairs.append(image_pairs[-1].downsampled())
        return image_pairs

    def levels(self, schedule: Sequence[tuple[int, int]], min_size: int = MIN_SIZE) -> list[tuple[int, ImagePair, int]]:
        """The pair at the resolutions of an optimization.

        Args:
            schedule: number of halvings and of iterations of each level, coarsest first.
            min_size: smallest number of voxels along a halved axis. Levels that this limit makes equal are merged and
                keep the largest iteration count.

        Returns:
            Number of halvings, pair and number of iterations of each level.
        """
        image_pairs = self.pyramid(schedule[0][0], min_size)
        longest: dict[int, int] = {}
        for halvings, iterations in schedule:
            level = min(halvings, len(image_pairs) - 1)
            longest[level] = max(iterations, longest.get(level, 0))
        return [(level, image_pairs[level], iterations) for level, iterations in longest.items()]

    def sample(self, index: int) -> ImagePair:
        """One pair of a batch."""
        masks = (None if mask is None else mask[index, None] for mask in (self.moving_mask, self.fixed_mask))
        return ImagePair(self.moving[index, None], self.fixed[index, None], *masks)

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
