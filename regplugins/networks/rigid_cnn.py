# SPDX-License-Identifier: Apache-2.0
"""Rigid parameters from two heads (Islam et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from regplugins.checks import choice
from regplugins.networks.base import RegistrationNetwork
from regplugins.networks.blocks import MLP


class Trunk(nn.Sequential):
    """Features ``(B, channels[-1])`` of an image ``(B, 1, *spatial)``.

    Blocks of a convolution (kernel 3), normalization and leaky ReLU (0.1), with max pooling by 2 between them, and an
    average over the image.

    Args:
        channels: of each block; the paper gives only the last, 128.
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
    """Trunk shared by both images, and a regressor from both features to rigid parameters.

    The regressor is a linear layer that is trained with the trunk, or an MLP that is fitted to its features afterward.

    Args:
        trunk: maps an image to features; default: the paper's.
        features: number of features of one image.
        hidden: neurons of the MLP.
        regressor: "head", the linear layer, or "mlp".

    Raises:
        ValueError: if the regressor is unknown.
    """

    def __init__(
        self, trunk: nn.Module | None = None, features: int = 128, hidden: int = 10, regressor: str = "head"
    ) -> None:
        super().__init__(spatial_dims=3, stride=1)
        self.trunk = Trunk() if trunk is None else trunk
        self.head = nn.Linear(2 * features, 6)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.mlp = MLP(2 * features, 6, hidden).requires_grad_(False)  # trained by `train_mlp`
        # Scale of typical degrees and mm, so that weights of common size give them.
        self.unit = 10.0
        self.regressor = regressor
        choice("regressor", regressor, dict.fromkeys(("head", "mlp")))
        nn.init.zeros_(self.mlp.output.weight)
        nn.init.zeros_(self.mlp.output.bias)
        self.register_load_state_dict_post_hook(_refuse_unfitted)

    def forward(self, pair: Tensor) -> Tensor:
        """Return ``(B, 6)``, degrees and mm, of ``regplugins.spatial.rigid_transform`` about the center of the grid.

        The transform maps the fixed to the moving image; before training it is the identity.
        """
        features = self.features(pair)
        if torch.jit.is_scripting():  # a script cannot disable autocast for an unknown device
            return self._motion(features)
        with torch.autocast(device_type=features.device.type, enabled=False):
            return self._motion(features.float())

    def _motion(self, features: Tensor) -> Tensor:
        return self.mlp(features) if self.regressor == "mlp" else self.linear(features)

    def linear(self, features: Tensor) -> Tensor:
        """Parameters ``(B, 6)`` of the linear layer for ``features``."""
        return self.unit * self.head(features)

    def features(self, pair: Tensor) -> Tensor:
        """Features ``(B, 2 features)`` of moving and fixed image, on which the MLP is trained."""
        self.check(pair)
        # In one batch: CT and MR in separate batches would share running averages that fit neither.
        images = pair.flatten(0, 1).unsqueeze(1)
        return self.trunk(images).reshape(pair.shape[0], -1)


def _refuse_unfitted(network: nn.Module, _keys: object) -> None:
    """Raise ``ValueError`` if weights are loaded without an MLP into a network that uses it."""
    if isinstance(network, RigidCNN) and network.regressor == "mlp" and not bool(network.mlp.output.weight.any()):
        raise ValueError("its mlp has not been fitted: run fit_regressor.json, or omit --regressor mlp")
