# SPDX-License-Identifier: Apache-2.0
"""Intensity scaling of images for networks and optimizers."""

from __future__ import annotations

from monai.transforms.utils_pytorch_numpy_unification import percentile
from torch import Tensor


def scale_percentiles(image: Tensor, lower: float = 1.0, upper: float = 99.0) -> Tensor:
    """Map two percentiles of an image to 0 and 1, and clip.

    If both percentiles are equal, as in an image that is nearly all background, the minimum and the maximum replace
    them; MONAI's ``ScaleIntensityRangePercentiles`` would leave such an image unscaled.

    Args:
        image: any shape.
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
    """
    low, high = map(float, percentile(image, [lower, upper]))
    if low == high:
        low, high = image.min().item(), image.max().item()
    return ((image - low) / ((high - low) or 1.0)).clamp(0, 1)
