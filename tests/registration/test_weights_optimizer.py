# SPDX-License-Identifier: Apache-2.0
"""Optimization of network weights on one pair."""

import pytest
import torch
from torch import nn

from regplugins.networks import MultiResolutionFCN
from regplugins.registration import WeightsOptimizer
from regplugins.spatial import pad_to_multiple
from tests.registration.pairs import OBJECTIVE, warped_pair


def test_weights_lower_the_objective_and_leave_the_network_alone():
    network = MultiResolutionFCN(2, channels=(8, 8, 16, 8, 8, 8)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pair, truth = warped_pair(30, 34)  # no multiples of 4
    target = {"moving": pair[:, :1], "fixed": pair[:, 1:]}
    start = torch.zeros_like(truth)
    for batch_statistics in (False, True):
        optimizer = WeightsOptimizer(network, OBJECTIVE, batch_statistics, iterations=40, learning_rate=3e-3)
        found = optimizer(pair, start)
        assert found.shape == truth.shape
        assert OBJECTIVE([found], target) < OBJECTIVE([start], target) - 0.02
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_what_lies_outside_a_mask_does_not_count(side):
    torch.manual_seed(0)
    network = MultiResolutionFCN(2, channels=(8, 8, 16, 8, 8, 8)).eval()
    pair, truth = warped_pair(30, 34)
    mask = torch.ones_like(pair[:, :1])
    mask[..., 10:] = 0  # windows of the coarsest level reach ten voxels
    found = []
    for optimizer_mask in (mask, None):
        for noise in (0.0, 1.0):
            network_sees = pair.clone()
            target = network_sees[:, ["moving", "fixed"].index(side)]
            target[..., 26:] += noise * torch.rand(30, 8, generator=torch.Generator().manual_seed(1))
            optimizer = WeightsOptimizer(_Blind(network, pair), OBJECTIVE, iterations=15, learning_rate=3e-3)
            masks = {} if optimizer_mask is None else {f"{side}_mask": optimizer_mask}
            found.append(optimizer(network_sees, torch.zeros_like(truth), **masks))
    masked, all_voxels = ((found[k] - found[k + 1]).abs().max() for k in (0, 2))
    assert masked < all_voxels / 20
    assert all_voxels > 0.05


class _Blind(nn.Module):
    """A network that sees the same pair whatever it is given, so that noise reaches the objective alone."""

    def __init__(self, network: nn.Module, pair: torch.Tensor) -> None:
        super().__init__()
        self.network, self.stride = network, network.stride
        self.pair = pad_to_multiple(pair, network.stride)

    def fields_of_passes(self, pair: torch.Tensor, passes: int) -> list[torch.Tensor]:
        return self.network.fields_of_passes(self.pair, passes)


def test_several_passes_lower_the_objective_of_the_composed_field():
    torch.manual_seed(0)
    network = MultiResolutionFCN(2, channels=(8, 8, 16, 8, 8, 8)).eval()
    pair, truth = warped_pair(32, 36)
    target = {"moving": pair[:, :1], "fixed": pair[:, 1:]}
    start = torch.zeros_like(truth)
    found = WeightsOptimizer(network, OBJECTIVE, True, iterations=40, learning_rate=3e-3, passes=2)(pair, start)
    assert OBJECTIVE([found], target) < OBJECTIVE([start], target) - 0.02


def test_no_iterations_is_an_error():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        WeightsOptimizer(nn.Identity(), OBJECTIVE, iterations=0)
