# SPDX-License-Identifier: Apache-2.0
"""One pass of a network over a whole pair."""

from __future__ import annotations

from torch import Tensor, nn

from regplugins.inferers.base import FieldInferer
from regplugins.spatial import crop, pad_to_multiple


class WholeVolumeInferer(FieldInferer):
    """Pad a pair at its far ends to sizes that the network takes, run it once, and crop the field back.

    Args:
        divisor: sizes become multiples of this, the network's stride.
        amp: compute convolutions in bfloat16, see ``FieldInferer``.
        zoom: voxels of the network's images for each of the pair's, see ``FieldInferer``.
        compile: translate the network first, see ``FieldInferer``.

    Raises:
        TypeError: ``amp`` or ``compile`` is no boolean.
        ValueError: ``divisor`` is less than one, or ``zoom`` not positive.
    """

    def __init__(self, divisor: int = 1, amp: bool = False, zoom: float = 1.0, compile: bool = False) -> None:
        super().__init__(amp, zoom, compile)
        if divisor < 1:
            raise ValueError(f"divisor must be at least 1, got {divisor}")
        self.divisor = divisor

    def _field(self, pair: Tensor, network: nn.Module) -> Tensor:
        return crop(network(pad_to_multiple(pair, self.divisor)), list(pair.shape[2:]))
