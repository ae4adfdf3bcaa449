# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that scale intensities."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from regplugins.registration import scale_percentiles
from regplugins.spatial import is_ct


class ScalePercentilesd(MapTransform):
    """Map two percentiles, ``lower`` and ``upper``, of each channel of images ``(C, *spatial)`` to 0 and 1, and clip.

    See ``regplugins.registration.scale_percentiles`` for the difference to MONAI's ``ScaleIntensityRangePercentilesd``.
    """

    def __init__(
        self, keys: KeysCollection, lower: float = 1.0, upper: float = 99.0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.lower = lower
        self.upper = upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        scaled = dict(data)
        for key in self.key_iterator(scaled):
            scaled[key] = torch.stack([scale_percentiles(image, self.lower, self.upper) for image in data[key]])
        return scaled


class ClipCTd(MapTransform):
    """Clip channels in Hounsfield units of images ``(C, *spatial)`` to a window; other channels stay as they are.

    ``regplugins.spatial.is_ct`` tells a CT.

    Args:
        keys: of the images.
        window: smallest and largest value, Hounsfield units.

    Raises:
        ValueError: if ``window`` is not two ascending numbers.
    """

    def __init__(self, keys: KeysCollection, window: Sequence[float]) -> None:
        super().__init__(keys)
        low, high = window
        if not low < high:
            raise ValueError(f"window must be two ascending numbers, got {window}")
        self.window = (low, high)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        clipped = dict(data)
        for key in self.key_iterator(clipped):
            clipped[key] = torch.stack([c.clamp(*self.window) if is_ct(c) else c for c in data[key]])
        return clipped
