# SPDX-License-Identifier: Apache-2.0
"""One pass of a network over a whole pair."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from regplugins.checks import boolean
from regplugins.spatial import crop, pad_to_multiple


class WholeVolumeInferer(Inferer):
    """Pad a pair at its far ends to sizes that the network takes, run it once, and crop the field back.

    Args:
        divisor: sizes become multiples of this, the network's stride.
        amp: compute convolutions in bfloat16. Quick on GPUs and on CPUs that have it in hardware, slow elsewhere.

    Raises:
        TypeError: ``amp`` is no boolean.
        ValueError: ``divisor`` is less than one.
    """

    def __init__(self, divisor: int = 1, amp: bool = False) -> None:
        super().__init__()
        if divisor < 1:
            raise ValueError(f"divisor must be at least 1, got {divisor}")
        self.divisor = divisor
        self.amp = boolean("amp", amp)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """
        Args:
            inputs: ``(B, 2, *spatial)``, moving and fixed image; any sizes.
            network: takes such a pair.

        Returns:
            ``(B, n, *spatial)`` float32 displacement in voxels.
        """
        padded = pad_to_multiple(inputs, self.divisor)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.amp):
            ddf = network(padded)
        return crop(ddf, list(inputs.shape[2:])).float()
