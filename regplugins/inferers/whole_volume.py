# SPDX-License-Identifier: Apache-2.0
"""Inference of a network on a whole pair at once."""

from __future__ import annotations

from torch import Tensor, nn

from regplugins.inferers.base import FieldInferer
from regplugins.spatial import crop, pad_to_multiple


class WholeVolumeInferer(FieldInferer):
    """Pad a pair at its far ends to a multiple of the network's ``stride``, run the network, and crop the field.

    Arguments and errors are those of ``FieldInferer``. A module without a whole number as its ``stride`` takes any
    size.
    """

    def _field(self, pair: Tensor, network: nn.Module) -> Tensor:
        stride = getattr(network, "stride", 1)
        padded = pad_to_multiple(pair, stride) if isinstance(stride, int) else pair
        return crop(network(padded), list(pair.shape[2:]))
