# SPDX-License-Identifier: Apache-2.0
"""Dictionary transform that scales intensities."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from regplugins.registration import scale_percentiles


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
