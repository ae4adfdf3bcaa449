# SPDX-License-Identifier: Apache-2.0
"""Refinement of a network's field."""

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

    result = RefineInferer(WholeVolumeInferer(), optimizer)(torch.rand(1, 2, 9, 10), Shift())
    assert torch.equal(result, torch.full((1, 2, 9, 10), 1.5))
    assert torch.equal(starts[0], torch.full((1, 2, 9, 10), 0.5))


def test_either_direction_is_refined_as_the_pair_that_it_registers():
    class Shifts(nn.Module):
        def forward(self, pair: Tensor) -> Tensor:
            return torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, *pair.shape[2:])

    def optimizer(pair: Tensor, start: Tensor, fixed_mask: Tensor, moving_mask: Tensor) -> Tensor:
        return start + pair[:, :1] - 2 * pair[:, 1:] + 10 * fixed_mask - 30 * moving_mask

    pair, fixed, moving = torch.rand(1, 2, 8, 8), torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8)
    inferer = RefineInferer(WholeVolumeInferer(), optimizer)
    result = inferer(pair, Shifts(), fixed_mask=fixed, moving_mask=moving)
    start = Shifts()(pair)
    there = start[:, :2] + pair[:, :1] - 2 * pair[:, 1:] + 10 * fixed - 30 * moving
    back = start[:, 2:] + pair[:, 1:] - 2 * pair[:, :1] + 10 * moving - 30 * fixed
    torch.testing.assert_close(result, torch.cat([there, back], dim=1))
