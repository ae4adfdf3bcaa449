# SPDX-License-Identifier: Apache-2.0
"""Random contrasts of single images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable, Transform
from torch import Tensor

from regplugins.registration.resampling import scale_percentiles


class RandTissuesd(Randomizable, Transform):
    """Show a head in another sequence, or another window: a random curve of its intensities that leaves what is dark
    dark. In an MR tissues change places, and of air and bone alone it is known that they are dark; in a CT the order of
    tissues is fixed: the curve never falls.

    Chance in place of scans that are not at hand, as in Billot et al., SynthSeg, Medical Image Analysis 86 (2023).

    Args:
        prob: how often an image changes.
        knots: of the curve, evenly over the intensities; between them it is linear.
        black: at most so many of them are black.
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
    """Show an image in a random window: cut at random percentiles, bent by a random power, turned dark for bright, with
    noise. Nothing of a CT's scale is left.

    Args:
        keys: images ``(1, *spatial)``.
        cut: largest share of voxels that become the least or the largest value, at either end.
        gamma: least and largest power.
        inversion: how often dark and bright change places.
        noise: largest standard deviation, of the image's range.

    Raises:
        ValueError: a share that is not between 0 and one half, powers that do not grow or are not positive, or negative
            noise.
    """

    def __init__(
        self,
        keys: Sequence[str] = ("image",),
        cut: float = 0.2,
        gamma: Sequence[float] = (0.5, 2.0),
        inversion: float = 0.5,
        noise: float = 0.05,
    ) -> None:
        if not 0 <= cut < 0.5 or not 0 < gamma[0] <= gamma[1] or not 0 <= inversion <= 1 or noise < 0:
            raise ValueError(f"no such cut, gamma, inversion or noise: {cut}, {gamma}, {inversion}, {noise}")
        self.keys = tuple(keys)
        self.cut = cut
        self.gamma = (float(gamma[0]), float(gamma[1]))
        self.inversion = inversion
        self.noise = noise

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {**data, **{key: self._changed(data[key]) for key in self.keys}}

    def _changed(self, image: Tensor) -> Tensor:
        low, high = self.R.uniform(0, self.cut), 1 - self.R.uniform(0, self.cut)
        image = scale_percentiles(image, 100 * low, 100 * high)
        image = image ** float(np.exp(self.R.uniform(*np.log(self.gamma))))
        if self.R.uniform() < self.inversion:
            image = 1 - image
        noise = self.R.uniform(0, self.noise) * self.R.standard_normal(tuple(image.shape))
        return image + torch.from_numpy(noise).to(image)
