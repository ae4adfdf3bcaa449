# SPDX-License-Identifier: Apache-2.0
"""What an optimizer looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regplugins.spatial import half_resolution, warp

# An axis of fewer voxels shows nothing that could be matched.
LEAST = 8


def plain(tensor: Tensor) -> Tensor:
    """Without metadata: MONAI's tensors, which have them, cannot be copied on the way to a derivative."""
    return tensor.as_subclass(Tensor)


@dataclass(frozen=True)
class Scene:
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
    def of(cls, pair: Tensor, moving_mask: Tensor | None, fixed_mask: Tensor | None) -> Scene:
        """
        Args:
            pair: ``(B, 2, *spatial)``, moving and fixed image.
            moving_mask: see ``Scene``.
            fixed_mask: see ``Scene``.

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
        pair = plain(pair)
        masks = (None if mask is None else plain(mask) for mask in (moving_mask, fixed_mask))
        return cls(pair[:, :1], pair[:, 1:], *masks)

    def halved(self) -> Scene:
        """At half the resolution."""
        return Scene(
            half_resolution(self.moving),
            half_resolution(self.fixed),
            None if self.moving_mask is None else half_resolution(self.moving_mask),
            None if self.fixed_mask is None else half_resolution(self.fixed_mask),
        )

    def pyramid(self, halvings: int, least: int = LEAST) -> list[Scene]:
        """Itself and what it is after each halving, as long as no axis has fewer than so many voxels by it."""
        scenes = [self]
        while len(scenes) <= halvings and min(scenes[-1].moving.shape[2:]) >= 2 * least:
            scenes.append(scenes[-1].halved())
        return scenes

    def levels(self, asked: Sequence[tuple[int, int]], least: int = LEAST) -> list[tuple[int, Scene, int]]:
        """Itself at the resolutions of an optimization.

        Args:
            asked: number of halvings and of iterations of each level, coarsest first.
            least: no level has an axis of fewer voxels by being halved; levels that cannot be told apart so are one,
                with as many iterations as the longest.

        Returns:
            Number of halvings, what is seen after them, and number of iterations of each level.
        """
        scenes = self.pyramid(asked[0][0], least)
        longest: dict[int, int] = {}
        for halvings, iterations in asked:
            level = min(halvings, len(scenes) - 1)
            longest[level] = max(iterations, longest.get(level, 0))
        return [(level, scenes[level], iterations) for level, iterations in longest.items()]

    def one(self, sample: int) -> Scene:
        """One pair of a batch."""
        masks = (None if mask is None else mask[sample, None] for mask in (self.moving_mask, self.fixed_mask))
        return Scene(self.moving[sample, None], self.fixed[sample, None], *masks)

    def exchanged(self) -> Scene:
        """The moving image fixed, and the fixed one moving."""
        return Scene(self.fixed, self.moving, self.fixed_mask, self.moving_mask)

    def with_moving_moved(self, ddf: Tensor) -> Scene:
        """The moving image and its mask through a field ``(B, n, *spatial)`` in voxels, of which the mask has no
        derivative: else a field could lower a cost by moving the mask away from what does not fit.
        """
        moving_mask = None if self.moving_mask is None else warp(self.moving_mask, ddf.detach())
        return replace(self, moving=warp(self.moving, ddf), moving_mask=moving_mask)

    def with_fixed_moved(self, ddf: Tensor) -> Scene:
        """The fixed image and its mask through a field ``(B, n, *spatial)`` in voxels."""
        return self.exchanged().with_moving_moved(ddf).exchanged()

    def mask(self, ddf: Tensor) -> Tensor | None:
        """Where both images count, the moving one through a field ``(B, n, *spatial)`` in voxels; as
        ``with_moving_moved`` has it, without a derivative.
        """
        if self.moving_mask is None:
            return self.fixed_mask
        moved = warp(self.moving_mask, ddf.detach())
        return moved if self.fixed_mask is None else moved * self.fixed_mask
