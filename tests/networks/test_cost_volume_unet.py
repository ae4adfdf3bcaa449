# SPDX-License-Identifier: Apache-2.0
"""Costs of displacements against images that are shifted by a known number of voxels."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.special import softmax
from torch import Tensor, nn

from regplugins.networks import CostVolumeUNet
from regplugins.networks.blocks import average_pool
from regplugins.networks.cost_volume_unet import Expectation, displacements_within

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
    volume = network.cost_volume(average_pool(network.descriptor(shifted_pair(shift)), 2, 2), network.coarse, 1)
    inside = (0, slice(None), *[slice(3, -3)] * len(shift))
    best = torch.tensor(network.coarse)[volume[inside].argmin(0)]
    assert bool((2 * best == torch.tensor(shift)).all())


@pytest.mark.parametrize("shift", [[1, -1], [0, 0], [-1, 0], [1, 0, -1], [-1, -1, 1]])
def test_a_shift_by_a_voxel_costs_least_among_the_fine_ones(shift):
    network = CostVolumeUNet(len(shift), channels=(4, 4, 4))
    volume = network.cost_volume(network.descriptor(shifted_pair(shift)), network.fine, 2)
    inside = (0, slice(None), *[slice(2, -2)] * len(shift))
    best = torch.tensor(network.fine)[volume[inside].argmin(0)]
    assert bool((best == torch.tensor(shift)).all())


@dimensions
@pytest.mark.parametrize("block", [1, 2])
def test_cost_of_a_displacement_less_the_mean_of_all(spatial_dims, block):
    """Against sums over the voxels of a block, one displacement after the other."""
    network = CostVolumeUNet(spatial_dims, channels=(4, 4, 4))
    features = torch.rand(1, 6, *[8] * spatial_dims)
    volume = network.cost_volume(features, network.coarse, block)
    voxels = [slice(2 * block, 3 * block)] * spatial_dims  # two blocks from the border, as far as the displacements go
    fixed = features[(0, slice(3, 6), *voxels)]
    costs = []
    for displacement in network.coarse:
        moved = [slice(s.start + step, s.stop + step) for s, step in zip(voxels, displacement, strict=True)]
        costs.append((features[(0, slice(0, 3), *moved)] - fixed).square().mean())
    expected = torch.stack(costs) - torch.stack(costs).mean()
    torch.testing.assert_close(volume[(0, slice(None), *[2] * spatial_dims)], expected)
    torch.testing.assert_close(volume.mean(1), torch.zeros_like(volume[:, 0]), atol=1e-6, rtol=0)


@dimensions
def test_a_field_of_any_multiple_of_eight_scripted_as_well(spatial_dims):
    network = CostVolumeUNet(spatial_dims, channels=(4, 4, 4)).eval()
    pair = torch.rand(2, 2, *SHAPES[spatial_dims])
    field = network(pair)
    assert field.shape == (2, spatial_dims, *SHAPES[spatial_dims])
    torch.testing.assert_close(torch.jit.script(network)(pair), field)


@pytest.mark.parametrize("shift", [[2, -4], [0, 0], [2, 0, -2]])
def test_the_shift_of_the_images_before_training(shift):
    """Far from the border, where the shifted image wraps around; blocks of noise differ little, so it must be sharp."""
    network = CostVolumeUNet(len(shift), channels=(4, 4, 4)).eval()
    nn.init.constant_(network.log_sharpness, 10.0)
    fixed = torch.rand([48] * len(shift), generator=torch.Generator().manual_seed(0))
    moving = 1 - fixed.roll(shift, dims=list(range(len(shift))))
    field = network(torch.stack([moving, fixed])[None])[(0, slice(None), *[slice(20, -20)] * len(shift))]
    expected = torch.tensor(shift).float().view(-1, *[1] * len(shift)).expand_as(field)
    torch.testing.assert_close(field, expected, atol=0.1, rtol=0)


@dimensions
def test_expected_displacement_is_that_of_the_likely_ones(spatial_dims):
    """Two displacements cost nothing, the others so much that they do not count."""
    displacements = displacements_within(spatial_dims, 2)
    expectation = Expectation(displacements)
    costs = torch.ones(1, len(displacements), *[3] * spatial_dims)
    costs[0, [1, 7]] = 0
    expected = torch.tensor([displacements[1], displacements[7]]).float().mean(0)
    for vector in expectation(costs, torch.tensor(100.0).log())[0].flatten(1).T:
        torch.testing.assert_close(vector, expected)
    vague = torch.rand(1, len(displacements), *[3] * spatial_dims)
    exact = expectation(vague, torch.zeros(()))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(expectation(vague, torch.zeros(())), exact)


def test_expectations_of_costs_in_windows():
    """Against SciPy: means of 2 and 4 blocks, smoothed by two boxes of three; far from the border."""
    network = CostVolumeUNet(2, channels=(4, 4, 4))
    coarse, fine = torch.rand(1, 25, 48, 48), torch.rand(1, 9, 48, 48)
    sharpness = network.log_sharpness.exp()[0].item()
    expected = network.expected_displacements(coarse, fine)

    def mean(costs: np.ndarray, reach: int) -> np.ndarray:
        likelihood = softmax(-sharpness * costs, axis=0)
        steps = np.array(list(product(range(-reach, reach + 1), repeat=2)))
        return np.einsum("nxy,nc->cxy", likelihood, steps)

    np.testing.assert_allclose(expected[0][0].detach(), mean(fine[0].numpy(), 1) / 2, atol=1e-4)
    np.testing.assert_allclose(expected[1][0].detach(), mean(coarse[0].numpy(), 2), atol=1e-4)
    for level, size in ((2, 2), (3, 4)):
        blocks = coarse[0].numpy().reshape(25, 48 // size, size, 48 // size, size).mean((2, 4))
        smooth = ndimage.uniform_filter(ndimage.uniform_filter(blocks, (0, 3, 3)), (0, 3, 3))
        cells = torch.from_numpy(mean(smooth, 2))[None].float()
        truth = torch.nn.functional.interpolate(cells, scale_factor=float(size), mode="bilinear")
        inside = (..., slice(4 * size, -4 * size), slice(4 * size, -4 * size))
        torch.testing.assert_close(expected[level].detach()[inside], truth[inside], atol=1e-4, rtol=0)


def test_before_training_the_field_is_that_of_the_smaller_windows():
    network = CostVolumeUNet(2, channels=(4, 4, 4)).eval()
    nn.init.zeros_(network.regression.conv.weight)
    nn.init.zeros_(network.regression.conv.bias)
    pair = torch.rand(1, 2, 48, 48)
    descriptors = network.descriptor(pair)
    coarse = network.cost_volume(average_pool(descriptors, 2, 2), network.coarse, 1)
    blocks = network.expected_displacements(coarse, network.cost_volume(descriptors, network.fine, 2))[2]
    expected = 2 * torch.nn.functional.interpolate(blocks, scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(network(pair), expected)


@dimensions
def test_field_is_that_of_the_blocks_centers_in_voxels(spatial_dims):
    """A field that is linear in the world stays so: block k lies about voxel 2 k + 0.5. Flat images add nothing."""
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
    field = network(torch.ones(1, 2, *shape))
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
