# SPDX-License-Identifier: Apache-2.0
"""Translations that align the centers of two images."""

from __future__ import annotations

import torch
from torch import Tensor

from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform, Grid

_BINS = 256


def align_fields_of_view(fixed: Grid, moving: Grid) -> AffineTransform:
    """Translation from the center of the fixed field of view to that of the moving one, RAS+ mm."""
    return _translation(moving.center - fixed.center)


def align_centers_of_mass(fixed: Volume, moving: Volume) -> AffineTransform:
    """Translation from the fixed image's center of mass to that of the moving one, RAS+ mm."""
    return _translation(center_of_mass(moving) - center_of_mass(fixed))


def center_of_mass(volume: Volume) -> Tensor:
    """Center of mass of an image's weighted foreground, ``(n,)`` float64, RAS+ mm."""
    weights = _foreground_weights(volume)
    axes = range(weights.ndim)
    marginals = [weights.sum(dim=[k for k in axes if k != axis], dtype=torch.float64) for axis in axes]
    index = [marginal @ torch.arange(len(marginal), dtype=torch.float64) / marginal.sum() for marginal in marginals]
    return volume.grid.index_to_world(torch.stack(index))


def weighted_foreground(volume: Volume) -> tuple[Tensor, Tensor]:
    """Foreground voxels, weighted by their intensity above the mean of the background.

    Foreground lies above Otsu's threshold: in MR, and in CT, where air has -1000, that is the patient.

    Args:
        volume: image; voxels outside its mask are ignored.

    Returns:
        Points ``(number, n)``, RAS+ mm, and weights ``(number,)``, both float64.
    """
    weights = _foreground_weights(volume)
    index = weights.nonzero()
    return volume.grid.index_to_world(index.to(torch.float64)), weights[tuple(index.T)].to(torch.float64)


def _foreground_weights(volume: Volume) -> Tensor:
    """Weights ``(*shape)`` float32, zero in the background and outside the mask."""
    threshold = otsu_threshold(volume.masked_values)
    background = volume.masked_values[volume.masked_values <= threshold].mean()
    weights = (volume.values - background).masked_fill_(volume.values <= threshold, 0)
    return weights if volume.mask is None else weights.masked_fill_(~volume.mask, 0)


def otsu_threshold(values: Tensor) -> float:
    """Otsu's threshold with 256 bins, at least the smallest and less than the largest value.

    Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9 (1979).

    Args:
        values: any shape, not all equal.
    """
    values = values.flatten()
    low, high = values.min().item(), values.max().item()
    counts = torch.histc(values, _BINS, low, high).to(torch.float64)
    edges = torch.linspace(low, high, _BINS + 1, dtype=torch.float64)
    centers = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum(0)[:-1]
    above = counts.sum() - below
    mass = (counts * centers).cumsum(0)
    between = below * above * (mass[:-1] / below - (mass[-1] - mass[:-1]) / above).square()
    return edges[1 + int(between.argmax())].item()


def _translation(shift: Tensor) -> AffineTransform:
    matrix = torch.eye(len(shift) + 1, dtype=torch.float64)
    matrix[:-1, -1] = shift
    return AffineTransform(matrix)
