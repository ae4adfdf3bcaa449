# SPDX-License-Identifier: Apache-2.0
"""Dual-branch network on costs: formulas of its parts, start, refused input, export."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regplugins.networks import CostVolumeUNet, GatedCostVolumeUNet
from tests.numpy_truth import gradient_length

SHAPES = {2: (16, 24), 3: (16, 8, 24)}
MODES = {2: "bilinear", 3: "trilinear"}
SMALL = (3, 4, 5)
dimensions = pytest.mark.parametrize("spatial_dims", [2, 3])


def small(spatial_dims: int, lively: bool = True) -> GatedCostVolumeUNet:
    network = GatedCostVolumeUNet(spatial_dims, SMALL).eval()
    for parameter in network.parameters() if lively else ():
        nn.init.normal_(parameter, std=0.3)
    return network


def a_pair(spatial_dims: int) -> Tensor:
    return torch.rand(2, 2, *SHAPES[spatial_dims])


def branches(network: GatedCostVolumeUNet, pair: Tensor) -> list[tuple[CostVolumeUNet, Tensor]]:
    """Each branch and what it is to see."""
    return [(network.images, pair), (network.gradients, gradient_length(pair))]


@dimensions
def test_branches_are_those_of_images_and_of_gradient_magnitudes(spatial_dims):
    network, pair = small(spatial_dims), a_pair(spatial_dims)
    _, of_edges, of_images = network.fields(pair)
    for found, (branch, seen) in zip((of_images, of_edges), branches(network, pair), strict=True):
        alone = CostVolumeUNet(spatial_dims, SMALL).eval()
        alone.load_state_dict(branch.state_dict())
        torch.testing.assert_close(found, alone(seen), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(of_images, of_edges, atol=1e-2)


@dimensions
def test_gates_see_the_fields_and_the_features_of_both_branches(spatial_dims):
    network, pair = small(spatial_dims), a_pair(spatial_dims)
    (of_images, features), (of_edges, others) = (branch.block_field(seen) for branch, seen in branches(network, pair))
    fusion = network.fusion
    convolve = F.conv2d if spatial_dims == 2 else F.conv3d
    both = torch.cat([of_images, of_edges], dim=1)
    gates = convolve(torch.cat([both, features, others], dim=1), fusion.gate.weight, fusion.gate.bias, padding=1)
    fused = convolve(gates.sigmoid() * both, fusion.bottleneck.weight, fusion.bottleneck.bias)
    expected = 2 * F.interpolate(fused, scale_factor=2, mode=MODES[spatial_dims])
    torch.testing.assert_close(network(pair), expected, atol=1e-3, rtol=1e-3)
    assert gates.sigmoid().std() > 0.1


@dimensions
def test_starts_at_the_average_of_the_branches_up_to_the_gates_of_the_fields(spatial_dims):
    """Features do not matter before training: the gates are those of two fields alone, near one half."""
    network = small(spatial_dims, lively=False)
    with torch.no_grad():
        network.fusion.gate.weight[:, : 2 * spatial_dims] = 0
        fused, of_edges, of_images = network.fields(a_pair(spatial_dims))
    torch.testing.assert_close(fused, (of_images + of_edges) / 2, atol=1e-5, rtol=1e-4)
    assert fused.abs().max() > 0.1


def test_the_final_field_alone_trains_all_parts():
    network = GatedCostVolumeUNet(2, SMALL)
    network(a_pair(2)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    for part in (network.fusion.gate, *(branch.regression.conv for branch in (network.images, network.gradients))):
        assert part.weight.grad.any()


@dimensions
def test_script_and_trace_agree(spatial_dims):
    network, pair = small(spatial_dims), a_pair(spatial_dims)
    scripted = torch.jit.script(network)
    for ours, theirs in zip(network.fields(pair), scripted.fields(pair), strict=True):
        torch.testing.assert_close(theirs, ours)
    torch.testing.assert_close(torch.jit.trace(network, a_pair(spatial_dims))(pair), network(pair))
    with pytest.raises(torch.jit.Error, match="multiples of 8"):
        scripted(torch.rand(1, 2, *[12] * spatial_dims))


@pytest.mark.parametrize(
    ("arguments", "message"), [({"channels": (4, 4)}, r"3 channel numbers.*\(4, 4\)"), ({"radius": 0}, "radius")]
)
def test_unknown_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GatedCostVolumeUNet(2, **arguments)
