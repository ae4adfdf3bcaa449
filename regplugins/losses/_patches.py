# SPDX-License-Identifier: Apache-2.0
"""Sums of squared differences between the patches around each voxel, over images flattened to rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


class PatchLayout:
    """Positions of the patches in a padded, flattened image, where an offset is one number.

    The map ``E_s(y) = sum_p w_p (I(y+p) - I(y+p+s))²`` serves two edges, those from a and from -a-s, with b = a+s: the
    distance of an edge at x is E_s(x+a). Offsets from a voxel of the image stay within the padding. Those from padding
    between two lines may cross into another line; their results have no weight.

    Attributes:
        padded: size of the padded image along each axis.
        strides: row offset between neighbors along each axis.
        tails: weight of a voxel at 1, 2, ... from the center of a patch along an axis, relative to the center. They are
            not normalized, since the scale of the distances cancels.
        patch: sum of the weights of a patch.
        shifts: s of each map.
        edges: for each edge the index of its map, and a.
        first, last: range of the row from the image's first voxel to past its last.
        reach: largest row offset of a patch from its center.
        lowest, highest: extremes of a.
    """

    def __init__(self, shape: Sequence[int], neighborhood: str, radius: int, dilation: int, weighting: str) -> None:
        self._padding = [radius + dilation] * (2 * len(shape))
        # All maps are read over the union of their ranges, which exceeds the end by up to one.
        self._padding[-1] += 1
        self.padded = [size + 2 * (radius + dilation) for size in shape]
        self.padded[0] += 1
        self.strides = [math.prod(self.padded[axis + 1 :]) for axis in range(len(shape))]
        relative = 0 if weighting == "box" else 3 / (2 * radius + 1)
        self.tails = [math.exp(-0.5 * (relative * distance) ** 2) for distance in range(1, radius + 1)]
        self.patch = (1 + 2 * sum(self.tails)) ** len(shape)
        self.shifts: list[int] = []
        self.edges: list[tuple[int, int]] = []
        steps = [dilation * stride for stride in self.strides]
        if neighborhood == "mind":
            for index, step in enumerate(steps):
                self.shifts.append(step)
                self.edges += [(index, 0), (index, -step)]
        else:
            for j, k in combinations(steps, 2):
                index = len(self.shifts)
                self.shifts += [j - k, j + k]
                self.edges += [(index, k), (index, -j), (index + 1, -j), (index + 1, -k)]
        self.first = (radius + dilation) * sum(self.strides)
        self.last = self.first + 1 + sum((n - 1) * stride for n, stride in zip(shape, self.strides, strict=True))
        self.reach = radius * sum(self.strides)
        self.lowest = min(anchor for _, anchor in self.edges)
        self.highest = max(anchor for _, anchor in self.edges)

    def pad(self, image: Tensor, mode: Literal["replicate", "constant"]) -> Tensor:
        return F.pad(image, self._padding, mode=mode)

    def read(self, first: int, last: int) -> tuple[int, int]:
        """Return the range of differences on which the distances at a range of voxels depend."""
        return first + self.lowest - self.reach, last + self.highest + self.reach

    def differences(self, row: Tensor, first: int, last: int, out: Tensor | None = None) -> Tensor:
        """Subtract from a range of voxels (..., voxels) those at each of the shifts: (..., maps, voxels)."""
        center, others = row[..., first:last], [row[..., first + shift : last + shift] for shift in self.shifts]
        if out is None:
            return torch.stack([center - shifted for shifted in others], -2)
        for difference, shifted in zip(out.unbind(-2), others, strict=True):
            torch.sub(center, shifted, out=difference)
        return out

    def window_sum(self, maps: Tensor, buffers: Buffers | None = None) -> Tensor:
        """Sum over patches; the result is shorter at either end of the maps (..., voxels) by the reach of a patch.

        With buffers, the maps should be in the buffer "odd" and are overwritten.
        """
        for axis, stride in enumerate(self.strides):
            size = maps.shape[-1] - 2 * len(self.tails) * stride
            total = maps.narrow(-1, len(self.tails) * stride, size)
            out = None if buffers is None else buffers.get(("even", "odd")[axis % 2], *maps.shape[:-1], size)
            for distance, weight in enumerate(self.tails, start=1):
                before = maps.narrow(-1, (len(self.tails) - distance) * stride, size)
                after = maps.narrow(-1, (len(self.tails) + distance) * stride, size)
                total = torch.add(total, before, alpha=weight, out=out).add_(after, alpha=weight)
            maps = total
        return maps

    def distances(self, maps: Tensor, out: Tensor | None = None) -> Tensor:
        """Look up the distances of the edges, (..., edges, voxels), in the maps (..., maps, voxels)."""
        size = maps.shape[-1] - (self.highest - self.lowest)
        views = [maps[..., index, :].narrow(-1, anchor - self.lowest, size) for index, anchor in self.edges]
        return torch.stack(views, -2, out=out)


class Buffers:
    """Memory that is reused for every chunk, since allocation costs more time than the computation."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def get(self, name: str, *shape: int) -> Tensor:
        """Return uninitialized memory of that shape, shared by all tensors of that name."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = self._like.new_empty(size)
        return self._buffers[name][:size].view(shape)
