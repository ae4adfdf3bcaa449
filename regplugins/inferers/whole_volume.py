# SPDX-License-Identifier: Apache-2.0
"""One pass of a network over a whole pair."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from torch import Tensor, nn

from regplugins.checks import boolean
from regplugins.spatial import crop, pad_to_multiple


class WholeVolumeInferer(Inferer):
    """Pad a pair at its far ends to sizes that the network takes, run it once, and crop the field back.

    Args:
        divisor: sizes become multiples of this, the network's stride.
        amp: compute convolutions in bfloat16. Quick on GPUs and on CPUs that have it in hardware, slow elsewhere.
        zoom: voxels of the network's images for each of the pair's: 0.5 shows a network that learnt at 2 mm a pair at 1
            mm, and brings its field back to that.

    Raises:
        TypeError: ``amp`` is no boolean.
        ValueError: ``divisor`` is less than one, or ``zoom`` not positive.
    """

    def __init__(self, divisor: int = 1, amp: bool = False, zoom: float = 1.0) -> None:
        super().__init__()
        if divisor < 1 or not zoom > 0:
            raise ValueError(f"divisor must be at least 1 and zoom positive, got {divisor} and {zoom}")
        self.divisor = divisor
        self.zoom = zoom
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
        own = list(inputs.shape[2:])
        seen = [max(1, round(size * self.zoom)) for size in own]
        padded = pad_to_multiple(inputs if seen == own else _resized(inputs, seen), self.divisor)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.amp):
            ddf = crop(network(padded), seen).float()
        if seen == own:
            return ddf
        voxels = torch.tensor(own, device=ddf.device) / torch.tensor(seen, device=ddf.device)
        return _resized(ddf, own) * voxels.view(-1, *[1] * len(own))


def _resized(image: Tensor, shape: list[int]) -> Tensor:
    """Linearly onto another number of voxels of the same field of view."""
    return F.interpolate(image, size=shape, mode="trilinear" if len(shape) == 3 else "bilinear")
