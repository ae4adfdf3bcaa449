# SPDX-License-Identifier: Apache-2.0
"""Which modality an image is of, and which of two is to stay."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Randomizable, Transform
from torch import Tensor, nn

from regplugins.checks import choice, number
from regplugins.data.volumes import load_image
from regplugins.spatial import Grid, onto_grid
from regplugins.transforms.pair import network_grid, normalize
from regplugins.transforms.reverse import exchange
from regplugins.transforms.timing import stage

logger = logging.getLogger(__name__)

MODALITIES = ("MR", "CT")
ORDERS = ("given", "auto")


class OntoModalityGridd(Transform):
    """Replace the path ``image`` by what the network sees of it, ``(1, *shape)`` in [0, 1]; all else stays.

    Args:
        spacing: mm.
        shape: voxels, about the center of the field of view.
    """

    def __init__(self, spacing: Sequence[float] | float, shape: Sequence[int]) -> None:
        self.spacing = spacing
        self.shape = tuple(shape)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            FileNotFoundError, ValueError: the file is missing or no good, or the image is not 3-D.
        """
        image = load_image(data["image"])
        if image.ndim != 4:
            raise ValueError(f"{data['image']}: {image.ndim - 1}-D, expected a 3-D image")
        return {**data, "image": _seen(image, self.spacing, self.shape)}


def _seen(image: MetaTensor, spacing: Sequence[float] | float, shape: Sequence[int]) -> Tensor:
    return normalize(onto_grid(image, network_grid(Grid.from_image(image), spacing, shape)))


class Identifier:
    """Tells the modality of a head.

    Args:
        network: ``(1, 1, *spatial)`` to a logit for each of ``MODALITIES``; None if it will not be asked.
        spacing: of its grid, mm.
        shape: of its grid, voxels, about the center of the field of view.
    """

    def __init__(self, network: nn.Module | None, spacing: Sequence[float] | float, shape: Sequence[int]) -> None:
        self.network = None if network is None else network.eval()
        self.spacing = spacing
        self.shape = tuple(shape)

    @torch.no_grad()
    def __call__(self, image: MetaTensor) -> tuple[str, float]:
        """
        Args:
            image: ``(1, *spatial)``, any 3-D grid.

        Returns:
            The modality, and its probability.

        Raises:
            ValueError: there is no network.
        """
        if self.network is None:
            raise ValueError("there is no network to tell modalities")
        device = next(self.network.parameters()).device
        seen = _seen(image, self.spacing, self.shape)[None]
        probabilities = self.network(seen.to(device)).float().softmax(dim=1)[0]
        number = int(probabilities.argmax())
        return MODALITIES[number], float(probabilities[number])


class OrderPaird(Transform):
    """Make the MR of a pair the fixed image and the CT the moving one, in whichever order they were given.

    Args:
        order: "given" leaves a pair as it is, "auto" looks.
        identify: gives modality and probability of an image.
        least: a probability below this is no answer.

    Raises:
        ValueError: another order.
    """

    def __init__(self, order: str, identify: Identifier, least: float = 0.75) -> None:
        choice("order", order, dict.fromkeys(ORDERS))
        self.order = order
        self.identify = identify
        self.least = number("least_probability", least)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Args:
            data: what ``LoadPaird`` read.

        Returns:
            The pair, all that belongs to either image exchanged where they were given the other way round, with
            ``exchanged`` then.

        Raises:
            ValueError: both are of one modality, or it is not clear of which they are.
        """
        pair = dict(data)
        if self.order == "given":
            return pair
        with stage(pair, "order"):
            found = {key: self.identify(pair[key]) for key in ("fixed", "moving")}
        said = " and ".join(
            f"{pair['paths'][key]} is {name} (probability {probability:.2f})"
            for key, (name, probability) in found.items()
        )
        if min(probability for _, probability in found.values()) < self.least:
            raise ValueError(f"{said}: too unsure to tell fixed from moving; give --order given")
        if found["fixed"][0] == found["moving"][0]:
            raise ValueError(f"{said}: one CT and one MR expected; give --order given")
        logger.info("%s", said)
        return pair if found["fixed"][0] == "MR" else exchange(pair) | {"exchanged": True}


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
        image = normalize(image, 100 * low, 100 * high)
        image = image ** float(np.exp(self.R.uniform(*np.log(self.gamma))))
        if self.R.uniform() < self.inversion:
            image = 1 - image
        noise = self.R.uniform(0, self.noise) * self.R.standard_normal(tuple(image.shape))
        return image + torch.from_numpy(noise).to(image)
