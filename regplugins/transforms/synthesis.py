# SPDX-License-Identifier: Apache-2.0
"""Synthesis of the images of a pair in each other's modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.transforms import Transform

from regplugins.checks import boolean
from regplugins.networks import Fire


class SynthesizePaird(Transform):
    """Add ``synthesized``: "moving" and "fixed", ``(1, *grid.shape)`` in [0, 1], in the modality of the other image.

    Args:
        network: with ``synthesize``.
        enabled: False: leave the pair unchanged.

    Raises:
        TypeError: if ``enabled`` is not a boolean, or the network, such as one from ONNX, has no ``synthesize``.
    """

    def __init__(self, network: Fire, enabled: bool = True) -> None:
        self.network = network
        self.enabled = boolean("synthesized", enabled)
        if self.enabled and not hasattr(network, "synthesize"):
            raise TypeError(f"synthesized: {type(network).__name__} makes no images of the other modality")

    @torch.no_grad()
    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        if not self.enabled:
            return dict(data)
        device = next(self.network.parameters()).device
        moving, fixed = self.network.synthesize(data["pair"][None].to(device))
        return {**data, "synthesized": {"moving": moving[0].cpu(), "fixed": fixed[0].cpu()}}
