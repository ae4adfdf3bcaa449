# SPDX-License-Identifier: Apache-2.0
"""An image made ready for alignment: checked, small, without outliers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from regplugins.spatial import Grid

# A head at 2 mm. What lies between the voxels of a finer one adds time and memory, not accuracy.
_LARGEST = {2: 512**2, 3: 128**3}
# Air. What lies below it in a CT is the padding about the scanner's round field of view, not the patient.
_LOWEST = -1024.0
# Intensities outside are metal, noise and vessels: they would leave few histogram bins for all the rest.
_PERCENTILES = (0.1, 99.9)


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image in the world.

    Args:
        name: what errors call it.
        values: ``(*grid.shape)`` float32 on the CPU.
        grid: where its voxels lie.
        mask: ``(*grid.shape)`` bool, what may be looked at; None: all.
    """

    name: str
    values: Tensor
    grid: Grid
    mask: Tensor | None = None

    @classmethod
    def prepare(cls, name: str, image: Tensor, grid: Grid, mask: Tensor | None = None) -> Volume:
        """Average an image down to at most 128 x 128 x 128 voxels (2-D: 512 x 512) and clip its outliers.

        Args:
            name: what errors call it.
            image: ``(1, *grid.shape)``, any type.
            grid: where its voxels lie.
            mask: ``(1, *grid.shape)``, not zero where the image may be looked at; default: everywhere.

        Raises:
            ValueError: shapes that do not belong together, an empty mask, values that are not finite, a constant image.
        """
        for what, tensor in ((f"{name} image", image), (f"{name} mask", mask)):
            if tensor is not None and tuple(tensor.shape) != (1, *grid.shape):
                raise ValueError(f"the {what} has shape {tuple(tensor.shape)}, expected {(1, *grid.shape)}")
        blocks = _blocks(grid, _LARGEST[grid.ndim])
        values = _average(image.as_subclass(Tensor)[0], blocks)
        inside = None if mask is None else _average(mask.as_subclass(Tensor)[0].bool(), blocks) > 0
        volume = cls(name, values, _coarser(grid, blocks), inside)
        if not values.isfinite().all():
            raise ValueError(f"the {name} image has values that are not finite")
        if volume.visible.numel() == 0:
            raise ValueError(f"the {name} mask is empty")
        if volume.is_constant:
            where = "" if mask is None else " within its mask"
            raise ValueError(
                f"the {name} image is constant{where} ({volume.visible.max():g}): nothing in it can be aligned"
            )
        low, high = torch.quantile(volume.visible, values.new_tensor(_PERCENTILES) / 100).tolist()
        low = max(low, _LOWEST)
        return replace(volume, values=values.clamp(low, high)) if low < high else volume

    @property
    def visible(self) -> Tensor:
        """``(number,)`` values where the mask allows."""
        return self.values.flatten() if self.mask is None else self.values[self.mask]

    @property
    def is_constant(self) -> bool:
        """Whether all visible values are one."""
        return bool(self.visible.min() == self.visible.max())

    def shrunk(self, size: int) -> Volume:
        """Averaged over blocks of voxels, as equal in mm as possible, so that at most ``size`` voxels remain."""
        blocks = _blocks(self.grid, size)
        if max(blocks) == 1:
            return self
        mask = None if self.mask is None else _average(self.mask, blocks) > 0
        return Volume(self.name, _average(self.values, blocks), _coarser(self.grid, blocks), mask)


def _blocks(grid: Grid, size: int) -> list[int]:
    """The smallest blocks, in voxels an axis, of which at most ``size`` fit the grid."""
    blocks = [1] * grid.ndim
    spacing = grid.spacing.tolist()
    while math.prod(n // block for n, block in zip(grid.shape, blocks, strict=True)) > size:
        axes = [k for k in range(grid.ndim) if grid.shape[k] >= 2 * blocks[k]]
        blocks[min(axes, key=lambda k: blocks[k] * spacing[k])] += 1
    return blocks


def _average(values: Tensor, blocks: list[int]) -> Tensor:
    """Mean of each block of (*shape), float32 on the CPU; what fills no block at an axis's end is left out."""
    pool = F.avg_pool3d if values.ndim == 3 else F.avg_pool2d
    # Slab by slab, so that no whole volume is converted to float32.
    rows = values[: values.shape[0] // blocks[0] * blocks[0]].split(8 * blocks[0])
    return torch.cat([pool(part[None].cpu().float(), blocks)[0] for part in rows])


def _coarser(grid: Grid, blocks: list[int]) -> Grid:
    """The grid of the blocks' centers."""
    step = torch.diag(torch.tensor([*blocks, 1], dtype=torch.float64))
    step[:-1, -1] = (torch.tensor(blocks, dtype=torch.float64) - 1) / 2
    shape = tuple(n // block for n, block in zip(grid.shape, blocks, strict=True))
    return Grid(shape, grid.affine @ step)
