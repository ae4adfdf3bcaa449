# SPDX-License-Identifier: Apache-2.0
"""What a network makes of either image of a pair in the other's modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.transforms import Transform

from regplugins.checks import boolean
from regplugins.networks import Fire


class SynthesizePaird(Transform):
    """Add ``synthesized``: of the "moving" and the "fixed" image ``(1, *grid.shape)`` on the network's grid, each in
    the modality of the other and in [0, 1].

    Args:
        network: with ``synthesize``.
        enabled: False does nothing.

    Raises:
        TypeError: ``enabled`` is no boolean, or the network, one that was exported to ONNX, makes no images.
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
