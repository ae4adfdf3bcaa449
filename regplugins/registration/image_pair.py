# SPDX-License-Identifier: Apache-2.0
"""What an optimizer looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regplugins.spatial import downsample, warp

# An axis of fewer voxels shows nothing that could be matched.
MIN_SIZE = 8


def as_tensor(tensor: Tensor) -> Tensor:
    """Without metadata: MONAI's tensors, which have them, cannot be copied on the way to a derivative."""
    return tensor.as_subclass(Tensor)


@dataclass(frozen=True)
class ImagePair:
    """A pair's images and masks, all ``(B, 1, *spatial)``.

    Args:
        moving: image.
        fixed: image.
        moving_mask: weighs where the moving image counts; None: everywhere.
        fixed_mask: weighs where the fixed image counts; None: everywhere.
    """

    moving: Tensor
    fixed: Tensor
    moving_mask: Tensor | None = None
    fixed_mask: Tensor | None = None

    @classmethod
    def of(cls, pair: Tensor, moving_mask: Tensor | None, fixed_mask: Tensor | None) -> ImagePair:
        """
        Args:
            pair: ``(B, 2, *spatial)``, moving and fixed image.
            moving_mask: see ``ImagePair``.
            fixed_mask: see ``ImagePair``.

        Raises:
            TypeError: images of less than 32 bits, or of integers.
            RuntimeError: in ``torch.inference_mode``, where nothing has a derivative.
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

    def halved(self) -> ImagePair:
        """At half the resolution."""
        return ImagePair(
            downsample(self.moving),
            downsample(self.fixed),
            None if self.moving_mask is None else downsample(self.moving_mask),
            None if self.fixed_mask is None else downsample(self.fixed_mask),
        )

    def pyramid(self, halvings: int, min_size: int = MIN_SIZE) -> list[ImagePair]:
        """Itself and what it is after each halving, as long as no axis has fewer than so many voxels by it."""
        image_pairs = [self]
        while len(image_pairs) <= halvings and min(image_pairs[-1].moving.shape[2:]) >= 2 * min_size:
            image_pairs.append(image_pairs[-1].halved())
        return image_pairs

    def levels(self, asked: Sequence[tuple[int, int]], min_size: int = MIN_SIZE) -> list[tuple[int, ImagePair, int]]:
        """Itself at the resolutions of an optimization.

        Args:
            asked: number of halvings and of iterations of each level, coarsest first.
            min_size: no level has an axis of fewer voxels by being halved; levels that cannot be told apart so are one,
                with as many iterations as the longest.

        Returns:
            Number of halvings, what is seen after them, and number of iterations of each level.
        """
        image_pairs = self.pyramid(asked[0][0], min_size)
        longest: dict[int, int] = {}
        for halvings, iterations in asked:
            level = min(halvings, len(image_pairs) - 1)
            longest[level] = max(iterations, longest.get(level, 0))
        return [(level, image_pairs[level], iterations) for level, iterations in longest.items()]

    def one(self, sample: int) -> ImagePair:
        """One pair of a batch."""
        masks = (None if mask is None else mask[sample, None] for mask in (self.moving_mask, self.fixed_mask))
        return ImagePair(self.moving[sample, None], self.fixed[sample, None], *masks)

    def swapped(self) -> ImagePair:
        """The moving image fixed, and the fixed one moving."""
        return ImagePair(self.fixed, self.moving, self.fixed_mask, self.moving_mask)

    def with_moving_moved(self, ddf: Tensor) -> ImagePair:
        """The moving image and its mask through a field ``(B, n, *spatial)`` in voxels, of which the mask has no
        derivative: else a field could lower a cost by moving the mask away from what does not fit.
        """
        moving_mask = None if self.moving_mask is None else warp(self.moving_mask, ddf.detach())
        return replace(self, moving=warp(self.moving, ddf), moving_mask=moving_mask)

    def with_fixed_moved(self, ddf: Tensor) -> ImagePair:
        """The fixed image and its mask through a field ``(B, n, *spatial)`` in voxels."""
        return self.swapped().with_moving_moved(ddf).swapped()

    def mask(self, ddf: Tensor) -> Tensor | None:
        """Where both images count, the moving one through a field ``(B, n, *spatial)`` in voxels; as
        ``with_moving_moved`` has it, without a derivative.
        """
        if self.moving_mask is None:
            return self.fixed_mask
        moved = warp(self.moving_mask, ddf.detach())
        return moved if self.fixed_mask is None else moved * self.fixed_mask
