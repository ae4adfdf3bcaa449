# SPDX-License-Identifier: Apache-2.0
"""Optimisers of one pair: they find a known warp, and better what they start from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regplugins.inferers import RefineInferer, WholeVolumeInferer
from regplugins.losses import LocalNCCLoss, MultiResolutionLoss, SquaredGradientLoss
from regplugins.networks import MultiResolutionFCN
from regplugins.optimization import FieldOptimizer, WeightsOptimizer
from regplugins.spatial import identity_grid, jacobian_determinant, warp

OBJECTIVE = MultiResolutionLoss(LocalNCCLoss(5), SquaredGradientLoss(), 0.1)


def textured(*shape: int) -> Tensor:
    """Noise at two scales, so that there is something to match everywhere."""
    torch.manual_seed(0)
    noise = torch.rand(1, 1, *shape)
    pool = nn.functional.avg_pool3d if len(shape) == 3 else nn.functional.avg_pool2d
    return pool(noise, 3, 1, 1) + 2 * pool(noise, 7, 1, 3)


def known_warp(*shape: int) -> Tensor:
    """A smooth field of at most 2 voxels that vanishes at the border."""
    grid = identity_grid(list(shape))
    sizes = torch.tensor(shape).view(-1, *[1] * len(shape)) - 1
    bump = torch.sin(torch.pi * grid / sizes).prod(dim=0)
    return 2 * torch.stack([bump * (-1) ** k for k in range(len(shape))])[None]


@pytest.mark.parametrize("shape", [(33, 36), (25, 26, 24)])
def test_field_finds_a_known_warp(shape):
    moving, truth = textured(*shape), known_warp(*shape)
    pair = torch.cat([moving, warp(moving, truth)], dim=1)
    found = FieldOptimizer(OBJECTIVE, iterations=60, learning_rate=0.2)(pair, torch.zeros_like(truth))
    inside = known_warp(*shape).norm(dim=1) > 0.5
    before = truth.norm(dim=1)[inside].mean()
    assert (found - truth).norm(dim=1)[inside].mean() < 0.3 * before
    assert jacobian_determinant(found).min() > 0


def test_field_starts_where_it_is_told():
    moving, truth = textured(32, 32), known_warp(32, 32)
    pair = torch.cat([moving, warp(moving, truth)], dim=1)
    found = FieldOptimizer(OBJECTIVE, iterations=3)(pair, truth)
    assert (found - truth).norm(dim=1).mean() < 0.15 < truth.norm(dim=1).mean()
    assert not found.requires_grad


def test_weights_lower_the_objective_and_leave_the_network_alone():
    network = MultiResolutionFCN(2, channels=(8, 8, 16, 8, 8, 8)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    moving, truth = textured(30, 34), known_warp(30, 34)  # no multiples of 4
    pair = torch.cat([moving, warp(moving, truth)], dim=1)
    target = {"moving": pair[:, :1], "fixed": pair[:, 1:]}
    start = torch.zeros_like(truth)
    for batch_statistics in (False, True):
        optimizer = WeightsOptimizer(network, OBJECTIVE, batch_statistics, iterations=40, learning_rate=3e-3)
        found = optimizer(pair, start)
        assert found.shape == truth.shape
        assert OBJECTIVE([found], target) < OBJECTIVE([start], target) - 0.02
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "optimizer",
    [FieldOptimizer, lambda objective, iterations: WeightsOptimizer(nn.Identity(), objective, iterations=iterations)],
)
def test_no_iterations_is_an_error(optimizer):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        optimizer(OBJECTIVE, iterations=0)


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
