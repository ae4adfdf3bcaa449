# SPDX-License-Identifier: Apache-2.0
"""Difference of MIND descriptors with its gradient written out, one chunk of the image at a time.

Between forward and backward only the gradient is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from regplugins.losses._similarity import ROUNDING_ERRORS

# Limits of the variance at a voxel, as multiples of its mean over the image: those of the authors' own programs.
_MIN_VARIANCE, _MAX_VARIANCE = 1e-3, 1e3

# Voxels per chunk. The distances of all edges should fit into the cache of a processor, while overlaps with the
# neighbors and the start of each operation should take little of the time.
_CHUNK = {"cpu": 2**17, "cuda": 2**19}


def variance_limits(mean: Tensor, intensity: Tensor, layout: PatchLayout) -> tuple[Tensor, Tensor]:
    """Return the limits of the variances, given their mean, and any intensity to tell rounding errors from variance."""
    rounding = ROUNDING_ERRORS * torch.finfo(mean.dtype).eps * intensity
    # An infinite variance makes all features of a constant image 1 and all gradients 0.
    constant = mean <= layout.patch * rounding.square()
    low, high = ((factor * mean).masked_fill(constant, math.inf) for factor in (_MIN_VARIANCE, _MAX_VARIANCE))
    return low, high


class Difference(torch.autograd.Function):
    """The loss and its gradients with respect to the padded images, both computed in ``forward``.

    With K edges, Y_c = (min D - D_c) / V, the features M_c = exp(Y_c), w the weight of the voxel and G_c the derivative
    of the norm (of opposite signs for the two images), the gradient with respect to the distance of an edge is

        d loss / dD_c = w/V (-G_c M_c + [D_c = min D] S - [V within its limits] 1/K sum_e G_e M_e Y_e),

    S being the sum of G_e M_e over all edges, shared evenly between several nearest patches. The gradient with respect
    to the image follows through the maps, the (self-adjoint) sum over patches and the squared differences.
    """

    @staticmethod
    def forward(
        ctx: Any, pred: Tensor, target: Tensor, weight: Tensor, inside: Tensor, layout: PatchLayout, norm: str
    ) -> Tensor:
        rows = pred.flatten(2), target.flatten(2)
        wanted = ctx.needs_input_grad[:2]
        gradients = [torch.zeros_like(row) if needed else None for row, needed in zip(rows, wanted, strict=True)]
        weight = weight.flatten(1).expand(len(pred), -1)
        coverage = _coverage(inside.flatten(), layout)
        buffers = Buffers(pred)
        loss = weight.new_zeros(())
        for sample in range(pred.shape[0]):
            for channel in range(pred.shape[1]):
                images = torch.stack([row[sample, channel] for row in rows])
                mean = _mean_distance(images, coverage, layout, buffers)
                limits = variance_limits(mean, images[:, :1], layout)
                for first, last in _chunks(layout.first, layout.last, pred.device):
                    chunk = _Chunk(images, first, last, limits, layout, buffers)
                    share = weight[sample, first:last]
                    loss += chunk.compare(norm, share)
                    for index, gradient in enumerate(gradients):
                        if gradient is not None:
                            chunk.differentiate(index, share, gradient[sample, channel])
        ctx.save_for_backward(*(gradient if gradient is None else gradient.view_as(pred) for gradient in gradients))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        pred, target = (None if gradient is None else gradient * grad_output for gradient in ctx.saved_tensors)
        return pred, target, None, None, None, None


def _chunks(first: int, last: int, device: torch.device) -> list[tuple[int, int]]:
    """Divide a range evenly into the fewest chunks."""
    count = math.ceil((last - first) / _CHUNK.get(device.type, _CHUNK["cuda"]))
    size = math.ceil((last - first) / count)
    return [(begin, min(begin + size, last)) for begin in range(first, last, size)]


def _coverage(inside: Tensor, layout: PatchLayout) -> Tensor:
    """Return the weight of each voxel of the row in the mean over the image of sums over patches."""
    return F.pad(layout.window_sum(inside / inside.sum()), (layout.reach, layout.reach))


def _mean_distance(images: Tensor, coverage: Tensor, layout: PatchLayout, buffers: Buffers) -> Tensor:
    """Return the mean of each image's variances, (rows, 1), without sums over patches."""
    total = images.new_zeros(len(images))
    for first, last in _chunks(*layout.read(layout.first, layout.last), images.device):
        shape = len(layout.shifts), last - first
        squares = layout.differences(images, first, last, buffers.get("odd", len(images), *shape)).square_()
        counts = buffers.get("even", *shape)
        for count, (_, a), (_, b) in zip(counts, layout.edges[::2], layout.edges[1::2], strict=True):
            torch.add(coverage[first - a : last - a], coverage[first - b : last - b], out=count)
        total += torch.stack([values.flatten().dot(counts.flatten()) for values in squares])
    return total.unsqueeze(1) / len(layout.edges)


class _Chunk:
    """Descriptors of two images over a range of voxels, and their derivatives.

    Attributes:
        differences: (2, maps, voxels), over the range on which the distances depend.
        exponents, features: (2, edges, voxels).
        scale: reciprocal of the variance, (2, voxels).
        limited: whether the variance is at a limit, (2, voxels).
        slope: derivative of the norm, (edges, voxels).
    """

    def __init__(
        self,
        images: Tensor,
        first: int,
        last: int,
        limits: tuple[Tensor, Tensor],
        layout: PatchLayout,
        buffers: Buffers,
    ) -> None:
        self.layout, self.buffers = layout, buffers
        self.begin, self.end = layout.read(first, last)
        shape = len(images), len(layout.shifts), self.end - self.begin
        self.differences = layout.differences(images, self.begin, self.end, buffers.get("differences", *shape))
        maps = layout.window_sum(torch.square(self.differences, out=buffers.get("odd", *shape)), buffers)
        shape = len(images), len(layout.edges), last - first
        self.exponents = layout.distances(maps, buffers.get("exponents", *shape))
        variance = self.exponents.mean(1)
        clamped = variance.clamp(*limits)
        self.limited = clamped != variance
        self.scale = clamped.reciprocal_()
        self.exponents.sub_(self.exponents.amin(1, keepdim=True)).mul_(-self.scale.unsqueeze(1))
        self.features = torch.exp(self.exponents, out=buffers.get("features", *shape))
        self.slope = buffers.get("slope", *shape[1:])
        self.scratch = buffers.get("scratch", *shape[1:])

    def compare(self, norm: str, weight: Tensor) -> Tensor:
        """Return the weighted sum of the differences of features; to be called once."""
        torch.sub(*self.features, out=self.slope)
        if norm == "l1":
            difference = torch.abs(self.slope, out=self.scratch).sum(0)
            self.slope.sign_()
        else:
            difference = torch.square(self.slope, out=self.scratch).sum(0)
            self.slope.mul_(2)
        return difference.mul_(weight).sum()

    def differentiate(self, index: int, weight: Tensor, gradient: Tensor) -> None:
        """Add to the gradient of one image's row; to be called once for each image, after ``compare``."""
        layout, (count, size) = self.layout, self.slope.shape
        features = self.features[index].mul_(self.slope)
        exponents = self.exponents[index]
        through_variance = torch.mul(features, exponents, out=self.scratch).sum(0)
        through_variance.masked_fill_(self.limited[index], 0).div_(count)
        # -1, but 0 at the nearest patches; a comparison and a selection would take many times longer.
        others = exponents.sign_()
        nearest = features.sum(0).div_(others.sum(0).add_(count))
        slopes = torch.addcmul(nearest - through_variance, others, nearest, out=others).sub_(features)

        # Two is the derivative of a square; the second image is subtracted.
        factor = (self.scale[index] * weight).mul_(2 if index == 0 else -2)
        maps = self.buffers.get("odd", len(layout.shifts), self.end - self.begin + 2 * layout.reach).zero_()
        for (of, anchor), values in zip(layout.edges, slopes, strict=True):
            maps[of].narrow(0, anchor - layout.lowest + 2 * layout.reach, size).addcmul_(values, factor)
        maps = layout.window_sum(maps, self.buffers).mul_(self.differences[index])
        gradient[self.begin : self.end].add_(maps.sum(0))
        for values, shift in zip(maps, layout.shifts, strict=True):
            gradient[self.begin + shift : self.end + shift].sub_(values)


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
