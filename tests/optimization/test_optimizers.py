# SPDX-License-Identifier: Apache-2.0
"""Optimisers of one pair: they find a known warp, and better what they start from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regplugins.inferers import RefineInferer, WholeVolumeInferer
from regplugins.losses import LocalNCCLoss, MultiResolutionLoss, SquaredGradientLoss
from regplugins.networks import MultiResolutionFCN
from regplugins.optimization import Displacement, PairOptimizer, WeightsOptimizer
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


def warped_pair(*shape: int) -> tuple[Tensor, Tensor]:
    """A pair of images, and the field that takes the one to the other."""
    moving, truth = textured(*shape), known_warp(*shape)
    return torch.cat([moving, warp(moving, truth)], dim=1), truth


@pytest.mark.parametrize("shape", [(33, 36), (25, 26, 24)])
@pytest.mark.parametrize("levels", [[(1, 60)], [(2, 40), (1, 40)], [(64, 40), (1, 40)]])
def test_pair_finds_a_known_warp(shape, levels):
    pair, truth = warped_pair(*shape)
    found = PairOptimizer(OBJECTIVE, levels)(pair, torch.zeros_like(truth))
    inside = truth.norm(dim=1) > 0.5
    before = truth.norm(dim=1)[inside].mean()
    assert (found - truth).norm(dim=1)[inside].mean() < 0.3 * before
    assert jacobian_determinant(found).min() > 0
    assert not found.requires_grad


def test_pair_starts_where_it_is_told():
    pair, truth = warped_pair(32, 32)
    found = PairOptimizer(OBJECTIVE, [(1, 3)])(pair, truth)
    assert (found - truth).norm(dim=1).mean() < 0.25 < truth.norm(dim=1).mean()


def test_pair_is_mirrored_with_its_images():
    # Of 2^k + 1 voxels, every second one is the same from either end.
    pair, truth = warped_pair(33, 17)
    optimizer = PairOptimizer(OBJECTIVE, [(2, 10), (1, 10)])
    found, mirrored = optimizer(pair, truth / 2), optimizer(pair.flip(2), mirror(truth / 2))
    torch.testing.assert_close(mirror(mirrored), found, atol=1e-3, rtol=0)
    assert found.abs().max() > 1


def mirror(ddf: Tensor) -> Tensor:
    """Turn a field about along the first axis."""
    return ddf.flip(2) * ddf.new_tensor([-1, 1]).view(1, 2, 1, 1)


def test_levels_are_millimetres():
    pair, truth = warped_pair(33, 36)
    start = torch.zeros_like(truth)
    ways = [([(2, 5), (1, 5)], 1.0), ([(8, 5), (4, 5)], 4.0), ([(0.9, 5), (0.5, 5)], [0.5, 2.0])]
    first, *others = [PairOptimizer(OBJECTIVE, levels, spacing)(pair, start) for levels, spacing in ways]
    assert all(torch.equal(first, other) for other in others)
    assert not torch.equal(first, PairOptimizer(OBJECTIVE, [(2, 5), (1, 5)], 4.0)(pair, start))


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_scale_of_the_objective_does_not_matter(factor):
    class Scaled(nn.Module):
        def forward(self, fields: list[Tensor], target: dict[str, Tensor]) -> Tensor:
            return factor * OBJECTIVE(fields, target)

    pair, truth = warped_pair(33, 36)
    found = [PairOptimizer(loss, [(1, 10)])(pair, torch.zeros_like(truth)) for loss in (OBJECTIVE, Scaled())]
    torch.testing.assert_close(*found, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("levels", "spacing", "message"),
    [
        ([], 1.0, "got \\[\\]"),
        ([(2, 0)], 1.0, "at least 1 iteration, got"),
        ([(1, 5), (2, 5)], 1.0, "coarsest level first"),
        ([(-1, 5)], 1.0, "must be positive"),
        ([(1, 5)], 0.0, "grid of 0.0"),
    ],
)
def test_levels_that_are_none(levels, spacing, message):
    with pytest.raises(ValueError, match=message):
        PairOptimizer(OBJECTIVE, levels, spacing)


@pytest.mark.parametrize("options", [{"step": 0.0}, {"smoothing": -1.0}])
def test_displacement_names_what_it_got(options):
    with pytest.raises(ValueError, match="smoothing must not be negative and step positive"):
        Displacement(**options)


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


def test_no_iterations_is_an_error():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        WeightsOptimizer(nn.Identity(), OBJECTIVE, iterations=0)


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
