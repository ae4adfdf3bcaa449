# SPDX-License-Identifier: Apache-2.0
"""Rigid network of Islam et al."""

import pytest
import torch
from monai.networks.nets import DenseNet121
from torch import nn

from regplugins.networks import RigidCNN
from regplugins.networks.rigid_cnn import Trunk


def test_the_papers_sizes():
    """Images are pooled three times; 128 features per image, six parameters."""
    network = RigidCNN().eval()
    pair = torch.rand(1, 2, 64, 64, 26)
    with torch.no_grad():
        assert network.features(pair).shape == (1, 256)
        assert network(pair).shape == (1, 6)
        assert nn.Sequential(*list(network.trunk)[:-2])(pair[:, :1]).shape == (1, 128, 8, 8, 3)


def test_one_trunk_sees_both_images():
    network = RigidCNN(Trunk((4, 8)), features=8).eval()
    pair = torch.rand(2, 2, 16, 16, 8)
    moving, fixed = network.features(pair).split(8, dim=1)
    swapped = network.features(pair.flip(1))
    torch.testing.assert_close(swapped, torch.cat([fixed, moving], dim=1))


def test_no_motion_before_training_and_every_parameter_learns():
    network = RigidCNN(Trunk((4, 8)), features=8)
    pair = torch.rand(2, 2, 16, 16, 8)
    assert torch.equal(network(pair), torch.zeros(2, 6))
    nn.init.normal_(network.head.weight)
    (network(pair) - 1).square().mean().backward()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    assert {id(parameter) for parameter in network.mlp.parameters()}.isdisjoint(map(id, trained))


@pytest.mark.parametrize("regressor", ["head", "mlp"])
def test_autocast_does_not_round_the_motion(regressor):
    network = RigidCNN(Trunk((4, 8)), features=8, regressor=regressor).eval()
    motion = torch.tensor([31.13, -17.07, 40.11, 33.3, -21.2, 9.37])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network.head.bias.copy_(motion / network.unit)
        network.mlp.output.bias.copy_(motion)
        torch.testing.assert_close(network(torch.rand(1, 2, 16, 16, 8))[0], motion, atol=1e-4, rtol=0)


def test_sizes_of_layers():
    slope = [layer for layer in Trunk().modules() if isinstance(layer, nn.LeakyReLU)]
    assert [layer.negative_slope for layer in slope] == [0.1] * 4
    assert sum(isinstance(layer, nn.BatchNorm3d) for layer in Trunk().modules()) == 4


def test_another_trunk():
    network = RigidCNN(DenseNet121(3, 1, 32), features=32).eval()
    assert network(torch.rand(1, 2, 32, 32, 32)).shape == (1, 6)


def test_scripts():
    network = RigidCNN(Trunk((4, 8)), features=8).eval()
    pair = torch.rand(1, 2, 16, 16, 8)
    torch.testing.assert_close(torch.jit.script(network)(pair), network(pair))
