# SPDX-License-Identifier: Apache-2.0
"""Tiled inference of networks without padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import ceil, prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from regplugins.checks import positive
from regplugins.inferers.base import FieldInferer
from regplugins.spatial import crop

_GIB = 2**30


class ValidTileInferer(FieldInferer):
    """Compute the field tile by tile, of a network whose output is smaller than its input, such as ``ValidUNet``.

    The volume is padded by replication. Tiles begin at multiples of the network's stride, so that the field does not
    depend on their size. Each tile is computed with the network's ``margin`` around it.

    Args:
        memory: limit in GiB for one tile, by the network's estimate ``voxel_bytes``. The tile size with the fewest
            input voxels in total is taken.
        tile: size of the field's tiles, multiples of the network's stride, in place of ``memory``.
        amp: see ``FieldInferer``.
        progress: show a progress bar if there are several tiles.
        compile: see ``FieldInferer``.
        passes: see ``FieldInferer``.

    Raises:
        TypeError: if ``amp`` or ``compile`` is not a boolean.
        ValueError: if ``memory`` is not positive, or ``passes`` is not a whole number of at least 1.
    """

    def __init__(
        self,
        memory: float = 4.0,
        tile: Sequence[int] | None = None,
        amp: bool = False,
        progress: bool = True,
        compile: bool = False,
        passes: int = 1,
    ) -> None:
        super().__init__(amp, compile, passes)
        self.memory = positive("memory", memory)
        self.tile = tile
        self.progress = progress

    def tiles(self, shape: Sequence[int], network: nn.Module) -> list[int]:
        """Size of the field's tiles for a volume.

        Args:
            shape: of the volume.
            network: with ``margin`` and ``stride`` in voxels, and ``voxel_bytes``.

        Raises:
            ValueError: if ``memory`` is too little for the smallest tile, or ``tile`` does not fit the network.
        """
        stride, margin = _number(network, "stride"), _number(network, "margin")
        voxel_bytes = _number(network, "voxel_bytes")
        if self.tile is not None:
            if len(self.tile) != len(shape) or any(size < stride or size % stride for size in self.tile):
                raise ValueError(f"tile must be {len(shape)} multiples of {stride}, got {self.tile}")
            return list(self.tile)
        max_voxels = self.memory * _GIB / voxel_bytes
        # Along each axis, the sizes that divide it into 1, 2, 3 and more parts.
        sizes = [sorted({stride * ceil(size / k / stride) for k in range(1, size + 1)}) for size in shape]
        tiles = [tile for tile in product(*sizes) if prod(size + 2 * margin for size in tile) <= max_voxels]
        if not tiles:
            smallest = (stride + 2 * margin) ** len(shape) * voxel_bytes / _GIB
            raise ValueError(f"memory of {self.memory} GiB is too little: the smallest tile takes {smallest:.2g} GiB")

        def input_voxels(tile: tuple[int, ...]) -> int:
            return prod(ceil(size / step) * (step + 2 * margin) for size, step in zip(shape, tile, strict=True))

        tile = min(tiles, key=input_voxels)
        return list(tile)

    def _field(self, pair: Tensor, network: nn.Module) -> Tensor:
        shape, margin = list(pair.shape[2:]), _number(network, "margin")
        tile = self.tiles(shape, network)
        counts = [ceil(size / step) for size, step in zip(shape, tile, strict=True)]
        padding = [
            (margin, count * step - size + margin) for size, step, count in zip(shape, tile, counts, strict=True)
        ]
        padded = F.pad(pair, [amount for both in reversed(padding) for amount in both], mode="replicate")
        full = [count * step for step, count in zip(tile, counts, strict=True)]
        ddf = pair.new_empty((len(pair), len(shape), *full))
        corners = list(product(*(range(0, size, step) for size, step in zip(full, tile, strict=True))))
        for corner in tqdm(corners, desc="tiles", leave=False, disable=not self.progress or len(corners) == 1):
            inner = tuple(slice(begin, begin + step) for begin, step in zip(corner, tile, strict=True))
            outer = tuple(slice(part.start, part.stop + 2 * margin) for part in inner)
            ddf[_index(inner)] = network(padded[_index(outer)])
        return crop(ddf, shape)


def _index(part: Sequence[slice]) -> tuple[Any, ...]:
    return (..., *part)


def _number(network: nn.Module, name: str) -> int:
    """Integer attribute of a module."""
    return int(getattr(network, name))
