# SPDX-License-Identifier: Apache-2.0
"""A network without padding over a whole pair, by tiles as large as memory allows."""

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
    """Compute the field of a network that gives less than it is shown, such as ``ValidUNet``, tile by tile.

    What the network wants to see beyond the volume continues its border. Tiles begin at multiples of the network's
    stride, and so the field does not depend on their size; large ones waste less: the network sees its ``margin`` about
    each.

    Args:
        memory: GiB that a network with a margin may take at a time, by its estimate ``voxel_bytes``; of the tiles that
            keep to it, all of one size, those by which it sees the fewest voxels.
        tile: sizes of the field's tiles, multiples of the network's stride, instead.
        amp: compute convolutions in bfloat16, see ``FieldInferer``.
        zoom: voxels of the network's images for each of the pair's, see ``FieldInferer``.
        progress: show a bar where there is more than one tile.
        compile: translate the network first, see ``FieldInferer``.

    Raises:
        TypeError: ``amp`` or ``compile`` is no boolean.
        ValueError: ``memory`` or ``zoom`` is not positive.
    """

    def __init__(
        self,
        memory: float = 4.0,
        tile: Sequence[int] | None = None,
        amp: bool = False,
        zoom: float = 1.0,
        progress: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__(amp, zoom, compile)
        self.memory = positive("memory", memory)
        self.tile = tile
        self.progress = progress

    def tiles(self, shape: Sequence[int], network: nn.Module) -> list[int]:
        """The field's tile for a volume.

        Args:
            shape: of the volume.
            network: with ``margin`` and ``stride`` in voxels, and ``voxel_bytes``.

        Raises:
            ValueError: ``memory`` is too little for the least tile, or ``tile`` does not fit the network.
        """
        stride, margin = _number(network, "stride"), _number(network, "margin")
        voxel_bytes = _number(network, "voxel_bytes")
        if self.tile is not None:
            if len(self.tile) != len(shape) or any(size < stride or size % stride for size in self.tile):
                raise ValueError(f"tile must be {len(shape)} multiples of {stride}, got {self.tile}")
            return list(self.tile)
        if margin == 0:  # padded, what a network gives depends on where a tile ends: it sees all at once
            return [stride * ceil(size / stride) for size in shape]
        most = self.memory * _GIB / voxel_bytes
        # Along each axis what divides it into one, two, three … parts.
        sizes = [sorted({stride * ceil(size / k / stride) for k in range(1, size + 1)}) for size in shape]
        tiles = [tile for tile in product(*sizes) if prod(size + 2 * margin for size in tile) <= most]
        if not tiles:
            least = (stride + 2 * margin) ** len(shape) * voxel_bytes / _GIB
            raise ValueError(f"memory of {self.memory} GiB is too little: the least tile takes {least:.2g} GiB")

        def seen(tile: tuple[int, ...]) -> int:
            return prod(ceil(size / step) * (step + 2 * margin) for size, step in zip(shape, tile, strict=True))

        tile = min(tiles, key=seen)
        return list(tile)

    def _field(self, pair: Tensor, network: nn.Module) -> Tensor:
        shape, margin = list(pair.shape[2:]), _number(network, "margin")
        tile = self.tiles(shape, network)
        counts = [ceil(size / step) for size, step in zip(shape, tile, strict=True)]
        padding = [
            (margin, count * step - size + margin) for size, step, count in zip(shape, tile, counts, strict=True)
        ]
        seen = F.pad(pair, [amount for both in reversed(padding) for amount in both], mode="replicate")
        full = [count * step for step, count in zip(tile, counts, strict=True)]
        ddf = pair.new_empty((len(pair), len(shape), *full))
        corners = list(product(*(range(0, size, step) for size, step in zip(full, tile, strict=True))))
        for corner in tqdm(corners, desc="tiles", leave=False, disable=not self.progress or len(corners) == 1):
            inner = tuple(slice(begin, begin + step) for begin, step in zip(corner, tile, strict=True))
            outer = tuple(slice(part.start, part.stop + 2 * margin) for part in inner)
            ddf[_index(inner)] = network(seen[_index(outer)])
        return crop(ddf, shape)


def _index(part: Sequence[slice]) -> tuple[Any, ...]:
    return (..., *part)


def _number(network: nn.Module, name: str) -> int:
    """An attribute that modules have as tensors or modules for all that type checkers know."""
    return int(getattr(network, name))
