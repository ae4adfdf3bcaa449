# SPDX-License-Identifier: Apache-2.0
"""Image prepared for alignment: validated, downsampled and clipped."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from regplugins.spatial import Grid, block_mean, is_ct

# A head at 2 mm. Finer resolutions cost time and memory without a gain in accuracy.
_MAX_VOXELS = {2: 512**2, 3: 128**3}
# Air of a CT. Lower values are padding outside the scanner's round field of view.
_AIR = -1024.0
# Outliers are metal, noise and vessels. They would leave few histogram bins for the rest.
_PERCENTILES = (0.1, 99.9)


@dataclass(frozen=True, eq=False)
class Volume:
    """Scalar image, called ``name`` in errors, with its grid in RAS+ mm and mask.

    The values, ``(*grid.shape)``, are float32 on the CPU. The mask is boolean; None: all voxels count.
    """

    name: str
    values: Tensor
    grid: Grid
    mask: Tensor | None = None

    @classmethod
    def prepare(cls, name: str, image: Tensor, grid: Grid, mask: Tensor | None = None) -> Volume:
        """Average an image down to at most 128 x 128 x 128 voxels (2-D: 512 x 512) and clip its outliers.

        Image and mask are ``(1, *grid.shape)`` of any type. Raises ``ValueError`` if a shape does not match the grid,
        the mask is empty, or the image is constant or not finite.
        """
        for what, tensor in ((f"{name} image", image), (f"{name} mask", mask)):
            if tensor is not None and tuple(tensor.shape) != (1, *grid.shape):
                raise ValueError(f"the {what} has shape {tuple(tensor.shape)}, expected {(1, *grid.shape)}")
        blocks = _blocks(grid, _MAX_VOXELS[grid.ndim])
        values = block_mean(image.as_subclass(Tensor), blocks)[0].cpu().float()
        inside = None if mask is None else block_mean(mask.as_subclass(Tensor).bool(), blocks)[0].cpu() > 0
        volume = cls(name, values, grid.coarsened(blocks), inside)
        if not values.isfinite().all():
            raise ValueError(f"the {name} image has values that are not finite")
        if volume.masked_values.numel() == 0:
            raise ValueError(f"the {name} mask is empty")
        if volume.is_constant:
            where = "" if mask is None else " within its mask"
            raise ValueError(
                f"the {name} image is constant{where} ({volume.masked_values.max():g}): nothing in it can be aligned"
            )
        low, high = np.percentile(volume.masked_values.numpy(), _PERCENTILES).tolist()  # torch's sorts all values
        if low < _AIR and (is_ct(image) or _is_padded(image)):
            low = _AIR
        return replace(volume, values=values.clamp(low, high)) if low < high else volume

    @property
    def masked_values(self) -> Tensor:
        """Values within the mask, ``(number,)``."""
        return self.values.flatten() if self.mask is None else self.values[self.mask]

    @property
    def is_constant(self) -> bool:
        """True if all values within the mask are equal."""
        return bool(self.masked_values.min() == self.masked_values.max())

    def downsampled(self, size: int) -> Volume:
        """Mean of blocks of voxels, as isotropic as possible, so that at most ``size`` voxels remain."""
        blocks = _blocks(self.grid, size)
        if max(blocks) == 1:
            return self
        mask = None if self.mask is None else block_mean(self.mask[None], blocks)[0] > 0
        return Volume(self.name, block_mean(self.values[None], blocks)[0], self.grid.coarsened(blocks), mask)


def _is_padded(image: Tensor) -> bool:
    """Tell whether an image has a single value below that of air, such as -32768, with which CTs are padded, too."""
    below = image[image < _AIR]
    return bool(below.min() == below.max())


def _blocks(grid: Grid, size: int) -> list[int]:
    """Smallest blocks, in voxels per axis, of which the grid holds at most ``size``."""
    blocks = [1] * grid.ndim
    spacing = grid.spacing.tolist()
    while math.prod(n // block for n, block in zip(grid.shape, blocks, strict=True)) > size:
        axes = [k for k in range(grid.ndim) if grid.shape[k] >= 2 * blocks[k]]
        blocks[min(axes, key=lambda k: blocks[k] * spacing[k])] += 1
    return blocks
