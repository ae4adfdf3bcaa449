# SPDX-License-Identifier: Apache-2.0
"""Multilayer perceptron with one hidden layer (Islam et al. 2021, "Registration of multi-modal images")."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """``y = W2 tanh(W1 x + b1) + b2`` with standardized features and outputs; the scaling is part of the state.

    Args:
        features: number of inputs.
        outputs: number of outputs.
        hidden: number of neurons.
    """

    if TYPE_CHECKING:  # TorchScript would look for these names and not find them
        feature_mean: Tensor
        feature_scale: Tensor
        output_mean: Tensor
        output_scale: Tensor

    def __init__(self, features: int, outputs: int, hidden: int = 10) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, hidden)
        self.output = nn.Linear(hidden, outputs)
        for name, size in (("feature", features), ("output", outputs)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, outputs)`` for features ``(B, features)``."""
        values = self.output(torch.tanh(self.hidden((features - self.feature_mean) / self.feature_scale)))
        return values * self.output_scale + self.output_mean
