# SPDX-License-Identifier: Apache-2.0
"""Refinement of a network's field by optimization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from regplugins.data import swapped_key


class RefineInferer(Inferer):
    """Refine the field of another inferer by optimization, in both directions if the network is bidirectional.

    Args:
        inferer: gives the initial field.
        optimizer: ``(pair, start, **masks) -> field``, of ``regplugins.registration``.
    """

    def __init__(self, inferer: Inferer, optimizer: Callable[..., Tensor]) -> None:
        super().__init__()
        self.inferer = inferer
        self.optimizer = optimizer

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """
        Args:
            inputs: ``(B, 2, *spatial)``, moving and fixed image.
            network: registration network.

        Returns:
            ``(B, n, *spatial)`` float32 displacement in voxels, or ``(B, 2 n, *spatial)``.
        """
        forward, *backward = self.inferer(inputs, network).split(inputs.dim() - 2, dim=1)
        refined = self.optimizer(inputs, forward, *args, **kwargs)
        if not backward:
            return refined
        swapped = {swapped_key(name): value for name, value in kwargs.items()}
        return torch.cat([refined, self.optimizer(inputs.flip(1), *backward, *args, **swapped)], dim=1)
