# SPDX-License-Identifier: Apache-2.0
"""A network's field, improved by optimization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

_OTHER = {"fixed_mask": "moving_mask", "moving_mask": "fixed_mask"}


class RefineInferer(Inferer):
    """Start from what another inferer gives, and optimize: one field, or that of either direction (``bidirectional``).

    Args:
        inferer: gives the start.
        optimizer: ``(pair, start) -> field``, one of ``regplugins.registration``; it gets what else the inferer does,
            masks say.
    """

    def __init__(self, inferer: Inferer, optimizer: Callable[..., Tensor]) -> None:
        super().__init__()
        self.inferer = inferer
        self.optimizer = optimizer

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """
        Args:
            inputs: ``(B, 2, *spatial)``, moving and fixed image.
            network: takes such a pair.

        Returns:
            ``(B, n, *spatial)`` float32 displacement in voxels, or ``(B, 2 n, *spatial)``.
        """
        forward, *backward = self.inferer(inputs, network).split(inputs.dim() - 2, dim=1)
        there = self.optimizer(inputs, forward, *args, **kwargs)
        if not backward:
            return there
        swapped = {_OTHER.get(name, name): value for name, value in kwargs.items()}
        return torch.cat([there, self.optimizer(inputs.flip(1), *backward, *args, **swapped)], dim=1)
