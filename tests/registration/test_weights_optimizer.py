# SPDX-License-Identifier: Apache-2.0
"""Optimization of network weights on one pair."""

import pytest
import torch
from torch import nn

from regplugins.networks import MultiResolutionFCN
from regplugins.registration import WeightsOptimizer
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
