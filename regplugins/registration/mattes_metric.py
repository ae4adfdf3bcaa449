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
        self._moving_range = _range(moving)
        # Voxels beside the mask, which points within it are interpolated from, may lie beyond the histogram.
        self._moving = _Interpolator(replace(moving, values=moving.values.clamp(*self._moving_range)))
        index = fixed.grid.world_to_index(self.points).float()
        values, _ = _Interpolator(fixed)(index.T)
        self._rows = bins * self._places(values, *_range(fixed)).long().clamp(_PADDING, bins - _PADDING - 1)

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
        maps = self._to_index @ matrices
        index = (maps[:, :n, :n] @ self.points.T + maps[:, :n, n:]).float().movedim(1, 0)
        inside = self._moving.contains(index)
        overlap = inside.sum(dim=1)
        values, partials = self._moving(index, with_gradient)
        places = self._places(values, *self._moving_range)
        columns = places.long().clamp(_PADDING, bins - _PADDING - 1)
        first = self._rows + columns + bins**2 * torch.arange(count)[:, None]
        offset = places - columns
        windows = _windows(offset) * inside
        bin_of = first - 1 + torch.arange(4).view(4, 1, 1)
        joint = torch.zeros(count * bins**2).scatter_add_(0, bin_of.flatten(), windows.flatten())
        joint = joint.view(count, bins, bins).double() / overlap.clamp(min=1)[:, None, None]
        rows, columns_sum = joint.sum(dim=2, keepdim=True), joint.sum(dim=1, keepdim=True)
        ratio = torch.where(joint > 0, joint / columns_sum.clamp(min=1e-300), 1).log()
        information = (joint * (ratio - rows.clamp(min=1e-300).log())).sum(dim=(1, 2))
        enough = overlap >= self._min_points
        information, overlap = information * enough, overlap * enough
        if not with_gradient:
            return information, overlap, gradient
        slopes = (_window_slopes(offset) * ratio.float().flatten()[bin_of]).sum(dim=0) * inside
        low, high = self._moving_range
        per_value = (bins - 2 * _PADDING) / (high - low) / overlap.clamp(min=1)
        by_index = torch.stack([partial * slopes for partial in partials], dim=1)
        points = torch.cat([self.points, torch.ones(len(self.points), 1, dtype=torch.float64)], dim=1).float()
        by_map = (by_index @ points).double() * per_value[:, None, None] * enough[:, None, None]
        gradient[:, :n] = self._to_index[:n, :n].T @ by_map
        return information, overlap, gradient

    def _places(self, values: Tensor, low: float, high: float) -> Tensor:
        """Places of values on the axis of the histogram, in bins."""
        return (values - low) * ((self._bins - 2 * _PADDING) / max(high - low, 1e-30)) + _PADDING


class _Interpolator:
    """Linear interpolation of an image with its derivatives."""

    def __init__(self, volume: Volume) -> None:
        self._values = volume.values.flatten()
        self._mask = None if volume.mask is None else volume.mask.flatten()
        self._shape = volume.values.shape
        self._strides = [math.prod(self._shape[k + 1 :]) for k in range(len(self._shape))]

    def contains(self, index: Tensor) -> Tensor:
        """Tell which voxel indices ``(n, ...)`` lie in the field of view and the mask."""
        inside = torch.ones(index.shape[1:], dtype=torch.bool)
        for part, size in zip(index, self._shape, strict=True):
            inside &= (part >= -0.5) & (part < size - 0.5)
        if self._mask is None:
            return inside
        nearest = sum(
            part.round().long().clamp(0, size - 1) * stride
            for part, size, stride in zip(index, self._shape, self._strides, strict=True)
        )
        return inside & self._mask[nearest]

    def __call__(self, index: Tensor, with_partials: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Values ``(...)`` at voxel indices ``(n, ...)``, and the n partial derivatives ``(...)`` if asked for.

        The border is extended.
        """
        base = torch.zeros(index.shape[1:], dtype=torch.long)
        fractions, steps = [], []
        for part, size, stride in zip(index, self._shape, self._strides, strict=True):
            clamped = part.clamp(0, size - 1)
            low = clamped.long().clamp_(max=max(size - 2, 0))
            fractions.append(clamped.sub_(low).flatten())
            base.add_(low, alpha=stride)
            steps.append((0, stride if size > 1 else 0))
        base = base.flatten()
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
        for k, partial in enumerate(partials):
            is_beyond = (index[k] <= 0) | (index[k] >= self._shape[k] - 1)
            partials[k] = partial.view(shape).masked_fill(is_beyond, 0)
        return values.view(shape), partials


def _windows(t: Tensor) -> Tensor:
    """Cubic B-spline ``(4, ...)`` at the bins -1, 0, 1 and 2 from that of a place, ``t`` bins from its own."""
    u = 1 - t
    t2, u2 = t * t, u * u
    return torch.stack([u * u2 / 6, (t / 2 - 1) * t2 + 2 / 3, (u / 2 - 1) * u2 + 2 / 3, t * t2 / 6])


def _window_slopes(t: Tensor) -> Tensor:
    """Derivatives of ``_windows`` with respect to the place."""
    u = 1 - t
    return torch.stack([u * u / -2, (1.5 * t - 2) * t, (2 - 1.5 * u) * u, t * t / 2])


def _range(volume: Volume) -> tuple[float, float]:
    return volume.masked_values.min().item(), volume.masked_values.max().item()


def _draw(volume: Volume, samples: int, seed: int) -> Tensor:
    random = np.random.default_rng(seed)
    visible = None if volume.mask is None else volume.mask.flatten().nonzero()[:, 0].numpy()
    count = volume.values.numel() if visible is None else len(visible)
    chosen = random.choice(count, min(samples, count), replace=False, shuffle=False)
    # In memory order, which makes access to both images fast.
    chosen = np.sort(chosen if visible is None else visible[chosen])
    index = np.stack(np.unravel_index(chosen, volume.grid.shape), axis=1)
    return volume.grid.index_to_world(torch.from_numpy(index + random.uniform(-0.5, 0.5, index.shape)))
