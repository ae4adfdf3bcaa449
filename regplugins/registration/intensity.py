# SPDX-License-Identifier: Apache-2.0
"""Intensities of an image: scaling by percentiles, and the threshold between background and foreground."""

from __future__ import annotations

import torch
from monai.transforms.utils_pytorch_numpy_unification import percentile
from torch import Tensor

_BINS = 256


def scale_percentiles(image: Tensor, lower: float = 1.0, upper: float = 99.0) -> Tensor:
    """Map two percentiles of an image of any shape to 0 and 1, and clip.

    If both percentiles are equal, as in an image that is nearly all background, the minimum and the maximum replace
    them; MONAI's ``ScaleIntensityRangePercentiles`` would leave such an image unscaled.
    """
    # NumPy selects on the CPU where PyTorch sorts, in a sixth of the time.
    values = image.detach().numpy() if image.device.type == "cpu" else image
    low, high = map(float, percentile(values, [lower, upper]))
    if low == high:
        low, high = image.min().item(), image.max().item()
    return ((image - low) / ((high - low) or 1.0)).clamp(0, 1)


def otsu_threshold(values: Tensor) -> float:
    """Otsu's threshold of values, not all equal: at least the smallest and less than the largest.

    256 bins; Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9 (1979).
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
