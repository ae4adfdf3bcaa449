# SPDX-License-Identifier: Apache-2.0
"""A network's field, improved by optimisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.inferers import Inferer
from torch import Tensor, nn


class RefineInferer(Inferer):
    """Start from what another inferer gives, and optimise.

    Args:
        inferer: gives the start.
        optimizer: ``(pair, start) -> field``, one of ``regplugins.optimization``; it gets what else the inferer does,
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
            ``(B, n, *spatial)`` float32 displacement in voxels.
        """
        return self.optimizer(inputs, self.inferer(inputs, network), *args, **kwargs)
