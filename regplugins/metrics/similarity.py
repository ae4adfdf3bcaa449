# SPDX-License-Identifier: Apache-2.0
"""Similarity of two images on one grid, for reports; ``regplugins.losses`` has the differentiable measures.

Both measures are accumulated over chunks in float64, so that large volumes are not copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from regplugins.spatial.transforms import row_chunks

_SAMPLE_VOXELS = 1 << 20
# Voxels that give percentiles.
_MIN_SAMPLE = 1 << 14


def subsample_volume(volume: Tensor, voxels: int = _SAMPLE_VOXELS) -> tuple[Tensor, int]:
    """Every k-th voxel along each axis of a volume ``(C, *spatial)``, about ``voxels`` of them, and k."""
    shape = volume.shape[1:]
    stride = max(1, round((math.prod(shape) / voxels) ** (1 / len(shape))))
    return volume[(slice(None), *[slice(None, None, stride)] * len(shape))], stride


def _check(fixed: Tensor, image: Tensor, mask: Tensor | None) -> None:
    shapes = [tuple(part.shape) for part in (fixed, image, mask) if part is not None]
    if len(set(shapes)) > 1:
        raise ValueError(f"images and mask must have one shape, got {', '.join(map(str, shapes))}")


def _values(fixed: Tensor, image: Tensor, mask: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the two images' values inside the mask, chunk by chunk, float64, flat."""
    for rows in row_chunks(fixed.shape[1:]):
        a, b = fixed[:, rows].flatten(), image[:, rows].flatten()
        if mask is not None:
            inside = mask[:, rows].flatten().bool()
            a, b = a[inside], b[inside]
        yield a.double(), b.double()


def normalized_correlation(fixed: Tensor, image: Tensor, mask: Tensor | None = None) -> float:
    """Pearson's correlation coefficient of the intensities, also called global NCC.

    Args:
        fixed: ``(C, *spatial)``.
        image: the same shape, on the same grid.
        mask: the same shape; voxels where it is zero are ignored.

    Returns:
        In [-1, 1]; NaN where an image is constant or the mask is empty.

    Raises:
        ValueError: if the shapes differ.
    """
    _check(fixed, image, mask)
    # A shift toward the mean keeps the one-pass sums exact for images far from zero, such as CT.
    shift_a, shift_b = float(fixed.flatten()[:1].double()), float(image.flatten()[:1].double())
    sums = torch.zeros(6, dtype=torch.float64, device=fixed.device)
    for a, b in _values(fixed, image, mask):
        a, b = a - shift_a, b - shift_b
        sums += torch.stack([torch.full_like(sums[0], a.numel()), a.sum(), b.sum(), a @ a, b @ b, a @ b])
    n, sum_a, sum_b, square_a, square_b, product = sums.tolist()
    if n == 0:
        return float("nan")
    variance_a, variance_b = square_a - sum_a**2 / n, square_b - sum_b**2 / n
    # Rounding leaves about 1e-16 of the sum of squares in the variance of a constant image.
    if variance_a <= 1e-14 * square_a or variance_b <= 1e-14 * square_b:
        return float("nan")
    return (product - sum_a * sum_b / n) / (variance_a * variance_b) ** 0.5


def _window(image: Tensor, mask: Tensor | None) -> tuple[float, float]:
    """0.1th and 99.9th percentile of an image, of a regular subset if it is large."""
    values, _ = subsample_volume(image)
    if mask is not None:
        values = values[subsample_volume(mask)[0].bool()]
        if len(values) < _MIN_SAMPLE:  # of a thin mask the subset may have nothing
            values = image[mask.bool()]
    if values.numel() == 0:
        return 0.0, 0.0
    low, high = np.percentile(values.flatten().cpu().numpy(), (0.1, 99.9)).tolist()  # torch's sorts all values
    return low, high


def mutual_information(fixed: Tensor, image: Tensor, mask: Tensor | None = None, bins: int = 64) -> float:
    """Mutual information of the intensities from their joint histogram (Maes et al., IEEE TMI 1997), in nats.

    Each image is binned between its own 0.1th and 99.9th percentile, so that a few extreme voxels do not empty the
    histogram. Values beyond are counted in the outermost of the ``bins`` of each image. Arguments and errors are those
    of ``normalized_correlation``, but the images may be of any modality.

    Returns:
        At least zero (zero for a constant image); NaN if the mask is empty.
    """
    _check(fixed, image, mask)
    (low_a, high_a), (low_b, high_b) = _window(fixed, mask), _window(image, mask)
    counts = torch.zeros(bins * bins, dtype=torch.float64, device=fixed.device)
    for a, b in _values(fixed, image, mask):
        row = ((a - low_a) * (bins / ((high_a - low_a) or 1))).clamp(0, bins - 1).long()
        column = ((b - low_b) * (bins / ((high_b - low_b) or 1))).clamp(0, bins - 1).long()
        counts += torch.bincount(row * bins + column, minlength=bins * bins)
    return histogram_information(counts.view(bins, bins))


def histogram_information(counts: Tensor) -> float:
    """Mutual information of a joint histogram ``(rows, columns)`` float64, nats: at least zero; NaN if it is empty."""
    total = float(counts.sum())
    if total == 0:
        return float("nan")
    joint = counts / total
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    occupied = joint > 0
    return max(0.0, float((joint[occupied] * (joint[occupied] / independent[occupied]).log()).sum()))
