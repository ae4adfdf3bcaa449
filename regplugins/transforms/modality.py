# SPDX-License-Identifier: Apache-2.0
"""Classification of an image's modality, and the order of a pair of two modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch import nn

from regplugins.checks import choice, number
from regplugins.registration.intensity import scale_percentiles
from regplugins.registration.network_grid import network_grid
from regplugins.spatial import Grid, resample_to_grid
from regplugins.transforms.swap import swap_pair
from regplugins.transforms.timing import stage
from regplugins.transforms.warn import warn

MODALITIES = ("MR", "CT")
ORDERS = ("given", "auto")


class ModalityClassifier:
    """Classify the modality of a head.

    Args:
        network: maps ``(1, 1, *spatial)`` to a logit for each of ``MODALITIES``; None if it is not used.
        spacing: of its grid, mm.
        shape: of its grid, voxels, about the center of the field of view.
    """

    def __init__(self, network: nn.Module | None, spacing: Sequence[float] | float, shape: Sequence[int]) -> None:
        self.network = None if network is None else network.eval()
        self.spacing = spacing
        self.shape = tuple(shape)

    @torch.no_grad()
    def __call__(self, image: MetaTensor) -> tuple[str, float]:
        """Modality and its probability of an image ``(1, *spatial)``, any 3-D grid."""
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
        order: "given": keep the order; "auto": classify both images.
        classifier: gives modality and probability of an image.
        min_probability: smallest accepted probability.
    """

    def __init__(self, order: str, classifier: ModalityClassifier, min_probability: float = 0.75) -> None:
        choice("order", order, dict.fromkeys(ORDERS))
        self.order = order
        self.classifier = classifier
        self.min_probability = number("min_probability", min_probability)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Swap a pair of ``LoadPaird`` in the other order with all its keys; add ``swapped`` and a warning.

        Raises:
            ValueError: if both images have one modality, or a probability is too low.
        """
        pair = dict(data)
        if self.order == "given":
            return pair
        with stage(pair, "order"):
            found = {key: self.classifier(pair[key]) for key in ("fixed", "moving")}
        said = " and ".join(
            f"{pair['paths'][key]} is {name} (probability {probability:.2f})"
            for key, (name, probability) in found.items()
        )
        if min(probability for _, probability in found.values()) < self.min_probability:
            raise ValueError(f"{said}: too unsure to tell fixed from moving; give --order given")
        if found["fixed"][0] == found["moving"][0]:
            raise ValueError(f"{said}: one CT and one MR expected; give --order given")
        if found["fixed"][0] == "MR":
            return pair
        pair = swap_pair(pair) | {"swapped": True}
        warn(
            pair,
            f"{said}: fixed and moving were swapped (order 'auto'). The fixed image of the result is "
            f"{pair['paths']['fixed']}; warped image, label and transform lie on its grid",
        )
        return pair
