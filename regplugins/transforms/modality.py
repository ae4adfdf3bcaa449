# SPDX-License-Identifier: Apache-2.0
"""Which modality an image is of, and which of two is to stay."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch import nn

from regplugins.checks import choice, number
from regplugins.registration.resampling import network_grid, scale_percentiles
from regplugins.spatial import Grid, resample_to_grid
from regplugins.transforms.swap import swap_pair
from regplugins.transforms.timing import stage

logger = logging.getLogger(__name__)

MODALITIES = ("MR", "CT")
ORDERS = ("given", "auto")


class ModalityClassifier:
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
        grid = network_grid(Grid.from_image(image), self.spacing, self.shape)
        scaled = scale_percentiles(resample_to_grid(image, grid))[None]
        probabilities = self.network(scaled.to(device)).float().softmax(dim=1)[0]
        number = int(probabilities.argmax())
        return MODALITIES[number], float(probabilities[number])


class OrderModalitiesd(Transform):
    """Make the MR of a pair the fixed image and the CT the moving one, in whichever order they were given.

    Args:
        order: "given" leaves a pair as it is, "auto" looks.
        identify: gives modality and probability of an image.
        min_probability: a probability below this is no answer.

    Raises:
        ValueError: another order.
    """

    def __init__(self, order: str, identify: ModalityClassifier, min_probability: float = 0.75) -> None:
        choice("order", order, dict.fromkeys(ORDERS))
        self.order = order
        self.identify = identify
        self.min_probability = number("min_probability", min_probability)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Args:
            data: what ``LoadPaird`` read.

        Returns:
            The pair, all that belongs to either image swapped where they were given the other way round, with
            ``swapped`` then.

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
        if min(probability for _, probability in found.values()) < self.min_probability:
            raise ValueError(f"{said}: too unsure to tell fixed from moving; give --order given")
        if found["fixed"][0] == found["moving"][0]:
            raise ValueError(f"{said}: one CT and one MR expected; give --order given")
        logger.info("%s", said)
        return pair if found["fixed"][0] == "MR" else swap_pair(pair) | {"swapped": True}
