# SPDX-License-Identifier: Apache-2.0
"""Six numbers of a rigid transform from two heads, and which modality a head is of (Islam et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from regplugins.checks import choice
from regplugins.networks.base import RegistrationNetwork
from regplugins.networks.mlp import MLP


class Trunk(nn.Sequential):
    """An image ``(B, 1, *spatial)`` to its features ``(B, channels[-1])``.

    Blocks of a convolution (kernel 3), normalization and leaky ReLU (0.1), each but the last followed by a max pooling
    by 2; the average of the last over the image.

    Args:
        channels: of each block; the paper's last has 128, the others it does not give.
        norm: MONAI's name of the normalization; the paper's is batch normalization.
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 128), norm: str = "batch") -> None:
        layers: list[nn.Module] = []
        for before, width in zip((1, *channels), channels, strict=False):
            if layers:
                layers.append(nn.MaxPool3d(2))
            layers.append(Convolution(3, before, width, norm=norm, act=("LEAKYRELU", {"negative_slope": 0.1})))
        super().__init__(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())


class RigidCNN(RegistrationNetwork):
    """One trunk, applied to either image, and what makes six numbers of the features of both: a linear layer, trained
    with the trunk, or a small network, fitted to its features afterwards.

    Args:
        trunk: an image to features; default: the paper's.
        features: of one image, how many the trunk gives.
        hidden: neurons of the small network.
        regressor: which of the two gives the result, "head", the linear layer, or "mlp".

    Raises:
        ValueError: another regressor.
    """

    def __init__(
        self, trunk: nn.Module | None = None, features: int = 128, hidden: int = 10, regressor: str = "head"
    ) -> None:
        super().__init__(spatial_dims=3, stride=1)
        self.trunk = Trunk() if trunk is None else trunk
        self.head = nn.Linear(2 * features, 6)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.mlp = MLP(2 * features, 6, hidden).requires_grad_(False)  # has its own way to be trained
        # Degrees and mm to be learned are tens; weights that give ones are learned at a common rate.
        self.unit = 10.0
        self.regressor = regressor
        choice("regressor", regressor, {"head": self.head, "mlp": self.mlp})
        nn.init.zeros_(self.mlp.output.weight)
        nn.init.zeros_(self.mlp.output.bias)
        self.register_load_state_dict_post_hook(_refuse_unfitted)

    def forward(self, pair: Tensor) -> Tensor:
        """
        Args:
            pair: ``(B, 2, *spatial)``, moving and fixed image.

        Returns:
            ``(B, 6)``, degrees and mm, what ``regplugins.spatial.rigid_transform`` takes: from the fixed to the moving
            image, about the center of the grid. No motion before any training.
        """
        features = self.features(pair)
        if self.regressor == "mlp":
            return self.mlp(features.float())
        return self.linear(features)

    def linear(self, features: Tensor) -> Tensor:
        """The six numbers that the linear layer gives of ``features``."""
        return self.unit * self.head(features)

    def features(self, pair: Tensor) -> Tensor:
        """What a regression network is trained on: ``(B, 2 features)``, moving and fixed image's."""
        self.check(pair)
        # In one call: CT and MR normalized apart in training would share one running average of neither.
        images = pair.flatten(0, 1).unsqueeze(1)
        return self.trunk(images).reshape(pair.shape[0], -1)


def _refuse_unfitted(network: nn.Module, _keys: object) -> None:
    """
    Raises:
        ValueError: weights were loaded into a network that answers by ``mlp``, which they leave as it was.
    """
    if isinstance(network, RigidCNN) and network.regressor == "mlp" and not bool(network.mlp.output.weight.any()):
        raise ValueError("its mlp has not been fitted: run fit_regressor.json, or give --regressor head")


class ModalityCNN(nn.Module):
    """The same trunk, and a linear layer to a number for each modality, of which softmax makes probabilities.

    The image and its negative are looked at, and their features added: a window turned dark for bright changes nothing.

    Args:
        modalities: how many.
        trunk: an image to features; default: that of ``RigidCNN`` with a block before it.
        features: as of ``RigidCNN``.
    """

    def __init__(self, modalities: int = 2, trunk: nn.Module | None = None, features: int = 128) -> None:
        super().__init__()
        # Tissues differ in detail that a head's place does not need: a finer grid, and a block more. Normalized one by
        # one, images do not differ by how bright or strong in contrast they are.
        self.trunk = Trunk((8, 16, 32, 64, 128), norm="instance") if trunk is None else trunk
        self.head = nn.Linear(features, modalities)

    def forward(self, image: Tensor) -> Tensor:
        """
        Args:
            image: ``(B, 1, *spatial)``, in [0, 1].

        Returns:
            ``(B, modalities)`` logits.
        """
        either = self.trunk(torch.cat([image, 1 - image]))
        return self.head(either[: len(image)] + either[len(image) :])
