# SPDX-License-Identifier: Apache-2.0
"""Random contrasts of single images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable, Transform
from torch import Tensor

from regplugins.registration.intensity import scale_percentiles


class RandTissuesd(Randomizable, Transform):
    """Map the intensities of a head by a random piecewise linear curve that keeps the darkest values dark.

    Simulates other MR sequences and CT windows, as in Billot et al., SynthSeg, Medical Image Analysis 86 (2023). The
    curve of a CT is monotonic, since the order of its tissues is fixed.

    Args:
        prob: probability of a change.
        knots: number of knots of the curve, at equal distances.
        black: largest number of knots that are mapped to zero.
        key: of the modality.
    """

    def __init__(self, prob: float = 0.8, knots: int = 7, black: int = 4, key: str = "modality") -> None:
        self.prob = prob
        self.knots = knots
        self.black = black
        self.key = key

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Args:
            data: with ``image`` ``(1, *spatial)`` in [0, 1] and the modality.
        """
        if self.R.uniform() >= self.prob:
            return dict(data)
        values = self.R.uniform(0.1, 1.0, self.knots)
        if data[self.key] == "CT":
            values = np.sort(values)
        values[: self.R.randint(1, self.black + 1)] = 0
        curve = np.interp(data["image"].numpy(), np.linspace(0.0, 1.0, self.knots), values / values.max())
        return {**data, "image": torch.from_numpy(curve.astype(np.float32))}


class RandIntensitiesd(Randomizable, Transform):
    """Clip an image at random percentiles, apply a random gamma, invert it at random, and add noise.

    Removes the absolute scale of a CT.

    Args:
        keys: images ``(1, *spatial)``.
        max_clip: largest fraction of voxels to clip at either end.
        gamma: smallest and largest exponent.
        inversion: probability of inverting the image.
        noise: largest standard deviation, relative to the image's range.

    Raises:
        ValueError: if ``max_clip`` is not in [0, 0.5), ``gamma`` is not two positive numbers in ascending order,
            ``inversion`` is not between 0 and 1, or ``noise`` is negative.
    """

    def __init__(
        self,
        keys: Sequence[str] = ("image",),
        max_clip: float = 0.2,
        gamma: Sequence[float] = (0.5, 2.0),
        inversion: float = 0.5,
        noise: float = 0.05,
    ) -> None:
        if not 0 <= max_clip < 0.5 or not 0 < gamma[0] <= gamma[1] or not 0 <= inversion <= 1 or noise < 0:
            raise ValueError(
                "max_clip must be in [0, 0.5), gamma two ascending positive numbers, inversion between 0 and 1 and "
                f"noise at least 0, got {max_clip}, {gamma}, {inversion} and {noise}"
            )
        self.keys = tuple(keys)
        self.max_clip = max_clip
        self.gamma = (float(gamma[0]), float(gamma[1]))
        self.inversion = inversion
        self.noise = noise

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {**data, **{key: self._augment(data[key]) for key in self.keys}}

    def _augment(self, image: Tensor) -> Tensor:
        low, high = self.R.uniform(0, self.max_clip), 1 - self.R.uniform(0, self.max_clip)
        image = scale_percentiles(image, 100 * low, 100 * high)
        image = image ** float(np.exp(self.R.uniform(*np.log(self.gamma))))
        if self.R.uniform() < self.inversion:
            image = 1 - image
        noise = self.R.uniform(0, self.noise) * self.R.standard_normal(tuple(image.shape))
        return image + torch.from_numpy(noise).to(image)
