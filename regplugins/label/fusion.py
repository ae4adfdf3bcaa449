# SPDX-License-Identifier: Apache-2.0
"""Fusion of several labels of the same image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

# Side of the neighborhood in which images are compared, voxels.
_WINDOW = 7
# Smallest weight of a vote, so that the majority decides where no image is similar.
_EPS = 1e-3


def vote(labels: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> Tensor:
    """Weighted voting: the value with most votes at each voxel; ties go to the smallest value.

    Args:
        labels: ``(1, *spatial)`` each, of integers.
        weights: of each label's vote at every voxel, of its shape; default: equal weights.

    Returns:
        ``(1, *spatial)``, as the labels.
    """
    if weights is None:
        weights = [torch.ones((), dtype=torch.float32)] * len(labels)
    values = sorted({int(value) for label in labels for value in label.unique()})
    best, most = torch.full_like(labels[0], values[0]), torch.full(labels[0].shape, -1.0)
    for value in values:
        votes = torch.zeros(labels[0].shape)
        for label, weight in zip(labels, weights, strict=True):
            votes += weight * (label == value)
        best[votes > most] = value
        most = torch.maximum(most, votes)
    return best


def local_similarity(fixed: Tensor, warped: Tensor) -> Tensor:
    """Squared local correlation of two images, as weights of votes; its sign is ignored, for different contrasts.

    Args:
        fixed: ``(1, *spatial)``.
        warped: the same shape.

    Returns:
        ``(1, *spatial)``, between 0.001 and 1.001.
    """
    a, b = (image[0].double().numpy() for image in (fixed, warped))

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, _WINDOW, mode="nearest")

    # Subtracting the mean of the image keeps the differences of squares accurate.
    a, b = a - a.mean(), b - b.mean()
    covariance = mean(a * b) - mean(a) * mean(b)
    first, second = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
    flat = (first <= 1e-9 * a.var()) | (second <= 1e-9 * b.var())
    correlation = np.where(flat, 0, covariance**2 / np.where(flat, 1, first * second))
    return torch.from_numpy(correlation + _EPS)[None].float()
