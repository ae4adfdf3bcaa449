# SPDX-License-Identifier: Apache-2.0
"""Costs of displacements against images that are shifted by a known number of voxels."""

import pytest
import torch
from torch import Tensor, nn

from regplugins.networks import CostVolumeUNet
from regplugins.networks.blocks import average_pool

SHAPES = {2: (24, 32), 3: (16, 24, 16)}
dimensions = pytest.mark.parametrize("spatial_dims", [2, 3])


def shifted_pair(shift: list[int], seed: int = 0) -> Tensor:
    """The moving image at ``x + shift`` is the negative of the fixed image at ``x``."""
    fixed = torch.rand(SHAPES[len(shift)], generator=torch.Generator().manual_seed(seed))
    moving = 1 - fixed.roll(shift, dims=list(range(len(shift))))
    return torch.stack([moving, fixed])[None]


@pytest.mark.parametrize("shift", [[2, -4], [0, 0], [-4, 4], [2, 0, -2], [4, -4, 2]])
def test_a_shift_by_whole_blocks_costs_least(shift):
    """Away from the border, where the shifted image wraps around."""
    network = CostVolumeUNet(len(shift), channels=(4, 4, 4))
    volume = network.cost_volume(average_pool(network.descriptor(shifted_pair(shift)), 2, 2))
    inside = (0, slice(None), *[slice(3, -3)] * len(shift))
    best = network.displacements.T[volume[inside].argmin(0)]
    expected = torch.tensor(shift, dtype=torch.float32) / 2
    assert bool((best == expected).all())


@dimensions
def test_cost_of_a_displacement_less_the_mean_of_all(spatial_dims):
    network = CostVolumeUNet(spatial_dims, channels=(4, 4, 4), radius=1)
    features = torch.rand(1, 6, *[5] * spatial_dims)
    volume = network.cost_volume(features)
    center = (2,) * spatial_dims
    costs = torch.stack(
        [
            (
                features[(0, slice(0, 3), *[int(2 + step) for step in displacement])]
                - features[(0, slice(3, 6), *center)]
            )
            .square()
            .mean()
            for displacement in network.displacements.T
        ]
    )
    torch.testing.assert_close(volume[(0, slice(None), *center)], costs - costs.mean())
    torch.testing.assert_close(volume.mean(1), torch.zeros_like(volume[:, 0]), atol=1e-6, rtol=0)


@dimensions
def test_a_voxel_s_field_for_any_multiple_of_eight_nearly_zero_before_training(spatial_dims):
    network = CostVolumeUNet(spatial_dims, channels=(4, 4, 4)).eval()
    pair = torch.rand(2, 2, *SHAPES[spatial_dims])
    field = network(pair)
    assert field.shape == (2, spatial_dims, *SHAPES[spatial_dims])
    assert 0 < field.abs().max() < 1e-2
    torch.testing.assert_close(torch.jit.script(network)(pair), field)


@dimensions
def test_expected_displacement_is_that_of_the_likely_ones(spatial_dims):
    """Two displacements cost nothing, the others so much that they do not count."""
    network = CostVolumeUNet(spatial_dims, channels=(4, 4, 4))
    costs = torch.ones(1, len(network.offsets), *[3] * spatial_dims)
    costs[0, [1, 7]] = 0
    expected = (network.displacements[:, 1] + network.displacements[:, 7]) / 2
    for vector in network.expected_displacement(costs)[0].flatten(1).T:
        torch.testing.assert_close(vector, expected)


@dimensions
def test_field_is_that_of_the_blocks_centers_in_voxels(spatial_dims):
    """A field that is linear in the world stays so: block k lies about voxel 2 k + 0.5."""
    network = CostVolumeUNet(spatial_dims, channels=(4, 4, 4)).eval()
    shape = SHAPES[spatial_dims]

    class Linear(nn.Module):
        """Blocks per block along the first axis."""

        def forward(self, features: Tensor) -> Tensor:
            assert features.shape[2:] == tuple(size // 2 for size in shape)
            centers = (2 * torch.arange(features.shape[2]) + 0.5) / 2
            rows = 0.1 * centers.view(1, 1, -1, *[1] * (spatial_dims - 1))
            return rows.expand(1, spatial_dims, *features.shape[2:])

    network.regression = Linear()
    field = network(torch.rand(1, 2, *shape))
    voxels = 0.1 * torch.arange(shape[0]).view(1, 1, -1, *[1] * (spatial_dims - 1)).expand_as(field)
    torch.testing.assert_close(field[:, :, 1:-1], voxels[:, :, 1:-1])


def test_learns_to_tell_shifts_apart():
    """Trained on shifts along one axis by two blocks or none, it finds that of another pair of images."""
    torch.manual_seed(0)
    network = CostVolumeUNet(2, channels=(8, 8, 8))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    inside = (..., slice(6, -6), slice(6, -6))

    def field_and_truth(shifts: list[int], seed: int) -> tuple[Tensor, Tensor]:
        pairs = torch.cat([shifted_pair([shift, 0], seed + k) for k, shift in enumerate(shifts)])
        truth = torch.tensor([[float(shift), 0.0] for shift in shifts])[..., None, None]
        return network(pairs)[inside], truth

    for step in range(60):
        field, truth = field_and_truth([4, 0, -4, 2], 10 * step)
        error = (field - truth).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        field, truth = field_and_truth([-4, 4], 1000)
    assert float((field - truth).square().mean()) < 0.25 * float(truth.square().mean())


def test_refused_input():
    with pytest.raises(ValueError, match="3 channel numbers"):
        CostVolumeUNet(channels=(4, 4))
    with pytest.raises(ValueError, match="radius must be a whole number of at least 1"):
        CostVolumeUNet(radius=0)
    with pytest.raises(ValueError, match="multiples of 8"):
        CostVolumeUNet(2, channels=(4, 4, 4))(torch.rand(1, 2, 12, 16))
