# SPDX-License-Identifier: Apache-2.0
"""Classification of a head's modality (Islam et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regplugins.networks.rigid_cnn import Trunk


class ModalityCNN(nn.Module):
    """Classifier of an image's modality: a trunk and a linear layer.

    The features of the image and of its negative are added, so that an inverted display changes nothing.

    Args:
        modalities: number of classes.
        trunk: maps an image to features; default: that of ``RigidCNN`` with a block before it.
        features: as for ``RigidCNN``.
    """

    def __init__(self, modalities: int = 2, trunk: nn.Module | None = None, features: int = 128) -> None:
        super().__init__()
        # Modalities differ in finer detail than positions, hence a block more. Instance normalization removes
        # differences of brightness and contrast.
        self.trunk = Trunk((8, 16, 32, 64, 128), norm="instance") if trunk is None else trunk
        self.head = nn.Linear(features, modalities)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, modalities)`` of an image ``(B, 1, *spatial)`` in [0, 1]."""
        either = self.trunk(torch.cat([image, 1 - image]))
        return self.head(either[: len(image)] + either[len(image) :])
