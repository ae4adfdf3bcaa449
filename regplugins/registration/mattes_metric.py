# SPDX-License-Identifier: Apache-2.0
"""Mattes mutual information of two images under affine transforms, many at once, with its gradient.

Mattes et al., "PET-CT image registration in the chest using free-form deformations", IEEE Transactions on Medical
Imaging 22 (2003).
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from regplugins.registration.volume import Volume

# Empty bins at either end of the histogram, for the tails of the window.
_PADDING = 2
# Points times transforms that are evaluated together: what they need fits into a processor's cache.
_CHUNK = 2**16


class MutualInformation:
    """Mattes mutual information at random points of the fixed image.

    The window is a box on the fixed intensities and a cubic B-spline on the moving ones, as in the paper and in ITK.

    Args:
        fixed: image in which points are drawn, each at a random position within its voxel. Points at voxel centers
            would favor transforms that align the two grids.
        moving: image that is sampled at the transformed points, by linear interpolation.
        samples: number of points; at most one per voxel of the image or its mask.
        bins: per axis of the joint histogram.
        seed: of the points.

    Attributes:
        points: ``(samples, n)`` float64, RAS+ mm.
        voxel: smallest spacing of the fixed image, mm.
    """

    def __init__(self, fixed: Volume, moving: Volume, samples: int, bins: int, seed: int) -> None:
        self.points = _draw(fixed, samples, seed)
        self.voxel = fixed.grid.spacing.min().item()
        self._bins = bins
        # Few points fall into bins of their own, with spuriously high mutual information.
        self._min_points = bins // 2
        self._is_constant = fixed.is_constant or moving.is_constant
        self._to_index = torch.linalg.inv(moving.grid.affine)
        self._homogeneous = torch.cat([self.points, torch.ones(len(self.points), 1, dtype=torch.float64)], dim=1)
        self._moving = _Interpolator(self._in_bins(moving))
        places, _ = _Interpolator(self._in_bins(fixed))(fixed.grid.world_to_index(self.points).float().T)
        self._rows = (bins * self._bin_of(places)).long()

    def value(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate transforms.

        Args:
            matrices: ``(B, n + 1, n + 1)`` float64, from the fixed to the moving world, RAS+ mm.

        Returns:
            ``(B,)`` mutual information in nats and ``(B,)`` numbers of points in both images, both 0 where these are
            too few.
        """
        return self._evaluate_parts(matrices, False)[:2]

    def gradient(self, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate transforms as ``value`` does, and the gradients ``(B, n + 1, n + 1)`` by the matrices."""
        return self._evaluate_parts(matrices, True)

    def _evaluate_parts(self, matrices: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
        parts = matrices.split(max(1, _CHUNK // len(self.points)))
        results = [self._evaluate(part, with_gradient) for part in parts]
        values, overlaps, gradients = map(torch.cat, zip(*results, strict=True))
        return values, overlaps, gradients

    def _evaluate(self, matrices: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
        count, n, bins = len(matrices), self.points.shape[1], self._bins
        gradient = torch.zeros_like(matrices)
        if self._is_constant:
            return gradient.new_zeros(count), torch.zeros(count, dtype=torch.long), gradient
        # Voxel indices of the moving image, (n, B, points).
        index = ((self._to_index[:n] @ matrices).movedim(1, 0) @ self._homogeneous.T).float()
        inside = self._moving.inside(index)
        overlap = inside.sum(dim=1).round().long()
        places, partials = self._moving(index, with_gradient)
        columns = self._bin_of(places)
        # Of the first of the four bins of each window.
        first = columns.long().add_(self._rows).add_(bins**2 * torch.arange(count)[:, None] - 1).flatten()
        offset = places.sub_(columns)
        joint = torch.zeros(count * bins**2)
        for shift, window in enumerate(_windows(offset)):
            joint[shift:].scatter_add_(0, first, window.mul_(inside).flatten())
        joint = joint.view(count, bins, bins).double() / overlap.clamp(min=1)[:, None, None]
        rows, columns_sum = joint.sum(dim=2, keepdim=True), joint.sum(dim=1, keepdim=True)
        ratio = torch.where(joint > 0, joint / columns_sum.clamp(min=1e-300), 1).log()
        information = (joint * (ratio - rows.clamp(min=1e-300).log())).sum(dim=(1, 2))
        enough = overlap >= self._min_points
        information, overlap = information * enough, overlap * enough
        if not with_gradient:
            return information, overlap, gradient
        constant, linear, square = (part.index_select(0, first).view_as(offset) for part in _slopes(ratio.flatten()))
        slopes = torch.addcmul(constant, offset, torch.addcmul(linear, offset, square)).mul_(inside)
        by_index = torch.empty_like(index)
        for partial, part in zip(partials, by_index, strict=True):
            torch.mul(partial, slopes, out=part)
        by_map = (by_index @ self._homogeneous.float()).double().movedim(0, 1)
        gradient[:, :n] = self._to_index[:n, :n].T @ by_map * (enough / overlap.clamp(min=1))[:, None, None]
        return information, overlap, gradient

    def _in_bins(self, volume: Volume) -> Volume:
        """Image whose values are their places on the axis of the histogram, in bins.

        Voxels beside the mask, which points within it are interpolated from, may lie beyond the histogram.
        """
        low, high = volume.masked_values.min().item(), volume.masked_values.max().item()
        scale = (self._bins - 2 * _PADDING) / max(high - low, 1e-30)
        return replace(volume, values=(volume.values.clamp(low, high) - low) * scale + _PADDING)

    def _bin_of(self, places: Tensor) -> Tensor:
        """Bins of places, whole numbers in single precision."""
        return places.floor().clamp_(_PADDING, self._bins - _PADDING - 1)


class _Interpolator:
    """Linear interpolation of an image with its derivatives."""

    def __init__(self, volume: Volume) -> None:
        self._values = volume.values.flatten()
        self._mask = None if volume.mask is None else volume.mask.flatten()
        self._shape = volume.values.shape
        self._strides = [math.prod(self._shape[k + 1 :]) for k in range(len(self._shape))]

    def inside(self, index: Tensor) -> Tensor:
        """1 where voxel indices ``(n, ...)`` lie in the field of view and the mask, else 0.

        Comparisons of tensors take several times as long as their arithmetic.
        """
        beyond = torch.zeros(index.shape[1:])
        for part, size in zip(index, self._shape, strict=True):
            torch.maximum(beyond, part.sub((size - 1) / 2).abs_().mul_(2 / size), out=beyond)
        inside = (beyond < 1).float()
        if self._mask is None:
            return inside
        nearest = sum(
            part.round().long().clamp(0, size - 1) * stride
            for part, size, stride in zip(index, self._shape, self._strides, strict=True)
        )
        return inside * self._mask[nearest]

    def __call__(self, index: Tensor, with_partials: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Values ``(...)`` at voxel indices ``(n, ...)``, and the n partial derivatives ``(...)`` if asked for.

        The border is extended.
        """
        base = torch.zeros(index.shape[1:])  # single precision has all whole numbers up to 2^24
        within, fractions, steps = [], [], []
        for part, size, stride in zip(index, self._shape, self._strides, strict=True):
            clamped = part.clamp(0, size - 1)
            if with_partials:
                within.append(clamped.eq(part))
            low = clamped.floor().clamp_(max=max(size - 2, 0))
            fractions.append(clamped.sub_(low).flatten())
            base.add_(low, alpha=stride)
            steps.append((0, stride if size > 1 else 0))
        base = base.long().flatten()
        corners = torch.empty(2 ** len(steps), len(base))
        for corner, step in zip(corners, product(*steps), strict=True):
            torch.index_select(self._values[sum(step) :], 0, base, out=corner)
        values = corners.view(*[2] * len(steps), -1)
        partials: list[Tensor] = []
        for fraction in fractions:
            low, difference = values[0], values[1] - values[0]
            if with_partials:
                partials = [torch.addcmul(one, fraction, other - one) for one, other in partials]
                partials.append(difference)
            values = torch.addcmul(low, fraction, difference)
        shape = index.shape[1:]
        return values.view(shape), [
            partial.view(shape).mul_(inner) for partial, inner in zip(partials, within, strict=True)
        ]


def _windows(t: Tensor) -> tuple[Tensor, ...]:
    """Cubic B-spline at the bins -1, 0, 1 and 2 from that of a place, ``t`` bins from its own."""
    u = 1 - t
    t2, u2 = t * t, u * u
    return u * u2 / 6, (t / 2 - 1) * t2 + 2 / 3, (u / 2 - 1) * u2 + 2 / 3, t * t2 / 6


def _slopes(values: Tensor) -> tuple[Tensor, ...]:
    """Derivative of the sum of four values, ``(bins,)``, weighted by ``_windows``, from each bin on.

    It is a parabola in ``t``: the constants, the factors of ``t`` and those of its square, ``(bins,)`` float32.
    """
    a, b, c, d = torch.cat([values, values.new_zeros(3)]).unfold(0, 4, 1).float().unbind(dim=1)
    return (c - a) / 2, a - 2 * b + c, (d - a) / 2 + 1.5 * (b - c)


def _draw(volume: Volume, samples: int, seed: int) -> Tensor:
    random = np.random.default_rng(seed)
    visible = None if volume.mask is None else volume.mask.flatten().nonzero()[:, 0].numpy()
    count = volume.values.numel() if visible is None else len(visible)
    chosen = random.choice(count, min(samples, count), replace=False, shuffle=False)
    # In memory order, which makes access to both images fast.
    chosen = np.sort(chosen if visible is None else visible[chosen])
    index = np.stack(np.unravel_index(chosen, volume.grid.shape), axis=1)
    return volume.grid.index_to_world(torch.from_numpy(index + random.uniform(-0.5, 0.5, index.shape)))
