# SPDX-License-Identifier: Apache-2.0
"""A network's field as the start of an optimisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regplugins.inferers import RefineInferer, WholeVolumeInferer


def test_refine_inferer_starts_from_the_networks_field():
    class Shift(nn.Module):
        def forward(self, pair: Tensor) -> Tensor:
            return torch.full((1, 2, *pair.shape[2:]), 0.5)

    starts: list[Tensor] = []

    def optimizer(pair: Tensor, start: Tensor) -> Tensor:
        starts.append(start)
        return start + 1

    result = RefineInferer(WholeVolumeInferer(divisor=4), optimizer)(torch.rand(1, 2, 9, 10), Shift())
    assert torch.equal(result, torch.full((1, 2, 9, 10), 1.5))
    assert torch.equal(starts[0], torch.full((1, 2, 9, 10), 0.5))
