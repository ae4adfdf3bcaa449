# SPDX-License-Identifier: Apache-2.0
"""Inference of a network on a whole pair at once."""

from __future__ import annotations

from torch import Tensor, nn

from regplugins.checks import whole
from regplugins.inferers.base import FieldInferer
from regplugins.spatial import crop, pad_to_multiple


class WholeVolumeInferer(FieldInferer):
    """Pad a pair at its far ends to a multiple of the network's stride, run the network, and crop the field.

    Args:
        divisor: stride of the network, voxels.
        amp: see ``FieldInferer``.
        zoom: see ``FieldInferer``.
        compile: see ``FieldInferer``.
        passes: see ``FieldInferer``.
        affine_passes: see ``FieldInferer``.

    Raises:
        TypeError: if ``amp`` or ``compile`` is not a boolean.
        ValueError: if ``divisor`` or ``passes`` is not a whole number of at least 1, ``affine_passes`` is not one of at
            least 0, or ``zoom`` is not positive.
    """

    def __init__(
        self,
        divisor: int = 1,
        amp: bool = False,
        zoom: float = 1.0,
        compile: bool = False,
        passes: int = 1,
        affine_passes: int = 0,
    ) -> None:
        super().__init__(amp, zoom, compile, passes, affine_passes)
        self.divisor = whole("divisor", divisor)

    def _field(self, pair: Tensor, network: nn.Module) -> Tensor:
        return crop(network(pad_to_multiple(pair, self.divisor)), list(pair.shape[2:]))
