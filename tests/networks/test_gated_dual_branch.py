# SPDX-License-Identifier: Apache-2.0
"""Dual-branch network of Xu et al.: formulas, variants, refused input, export."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from monai.networks.nets import VoxelMorphUNet
from torch import Tensor, nn

from regplugins.networks import GatedDualBranch
from regplugins.networks.gated_dual_branch import Branch
from tests.numpy_truth import gradient_length

FUSIONS = ["gated", "average", "concat", "none"]
fusions = pytest.mark.parametrize("fusion", FUSIONS)
SMALL = (3, 4, 5, 6, 7)
SHAPES = {2: (16, 32), 3: (32, 16, 16)}


def lively(network: GatedDualBranch) -> GatedDualBranch:
    """Set weights so large that differences are visible; the field of a new network is nearly zero."""
    for branch in network.branches:
        nn.init.normal_(branch.regression.conv.weight, std=0.3)
    return network.eval()


def small(spatial_dims: int = 2, fusion: str = "gated", **more: Any) -> GatedDualBranch:
    return lively(GatedDualBranch(spatial_dims, fusion, SMALL, **more))


def a_pair(spatial_dims: int = 2, batch: int = 1) -> Tensor:
    return torch.rand(batch, 2, *SHAPES[spatial_dims])


def convolutions(module: nn.Module) -> list[tuple[int, int, tuple[int, ...], tuple[int, ...]]]:
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    return [(m.in_channels, m.out_channels, tuple(m.kernel_size), tuple(m.stride)) for m in layers]


class TestBranch:
    @pytest.mark.parametrize("norm", [None, "batch", "instance"])
    @pytest.mark.parametrize("spatial_dims", [2, 3])
    def test_is_voxelmorph_with_strided_convolutions(self, spatial_dims, norm):
        widths = (3, 4, 4, 5, 5, 6, 6, 7)
        theirs = VoxelMorphUNet(
            spatial_dims, 2, 3, channels=widths, final_conv_channels=(3, 3), use_maxpool=False, norm=norm
        )
        ours = Branch(spatial_dims, 2, SMALL, norm)
        unet, last = theirs.net
        del last[2].adn  # displacements are not normalized
        ours.unet.load_state_dict(unet.state_dict())
        ours.refinement.load_state_dict(last[:2].state_dict())
        ours.regression.conv.load_state_dict(last[2].conv.state_dict())
        pair = a_pair(spatial_dims, batch=2)
        assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
        torch.testing.assert_close(ours(pair), theirs(pair))
        torch.testing.assert_close(ours.eval()(pair), theirs.eval()(pair))
        assert theirs(pair).std() > 1e-3

    def test_kernels_of_the_paper(self):
        """A convolution, four of stride 2, four on the way up, two for refinement, and the regression."""
        three, one, two = (3, 3, 3), (1, 1, 1), (2, 2, 2)
        assert convolutions(Branch(3, 2, (16, 32, 32, 32, 32), norm=None)) == [
            (2, 16, three, one),
            *[(16, 32, three, two), *[(32, 32, three, two)] * 3],
            *[(64, 32, three, one)] * 3,
            (48, 16, three, one),
            *[(16, 16, three, one)] * 2,
            (16, 3, three, one),
        ]


@pytest.mark.parametrize("spatial_dims", [2, 3])
@fusions
def test_every_fusion_gives_its_fields(fusion, spatial_dims):
    network = small(spatial_dims, fusion)
    pair = a_pair(spatial_dims, batch=2)
    fields = network.fields(pair)
    assert [tuple(field.shape) for field in fields] == [(2, spatial_dims, *SHAPES[spatial_dims])] * (
        3 if fusion in ("gated", "average") else 1
    )
    assert torch.equal(network(pair), fields[0])
    assert all(field.std() > 1e-3 for field in fields)
    for field, other in pairwise(fields):
        assert not torch.allclose(field, other, atol=1e-3)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(
    ("fusion", "seen"),
    [("none", ["images"]), ("concat", ["both"]), ("average", ["images", "edges"]), ("gated", ["images", "edges"])],
)
def test_what_each_branch_sees(fusion, seen, spatial_dims):
    network = small(spatial_dims, fusion)
    inputs: list[Tensor] = []
    for branch in network.branches:
        branch.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    pair = a_pair(spatial_dims, batch=2)
    network(pair)
    edges = gradient_length(pair)
    kinds = {"images": pair, "edges": edges, "both": torch.cat([pair, edges], dim=1)}
    assert len(inputs) == len(seen)
    for found, kind in zip(inputs, seen, strict=True):
        torch.testing.assert_close(found, kinds[kind])


def test_average_is_the_mean_of_the_branches():
    network = small(fusion="average")
    pair = a_pair()
    of_images, of_edges = (branch(x) for branch, x in zip(network.branches, (pair, gradient_length(pair)), strict=True))
    for field, expected in zip(network.fields(pair), ((of_images + of_edges) / 2, of_edges, of_images), strict=True):
        torch.testing.assert_close(field, expected)


def test_gated_is_the_formula_of_its_parts():
    network = small()
    (gated,) = network.fuse
    for parameter in gated.parameters():
        nn.init.normal_(parameter, std=0.3)
    pair = a_pair(batch=2)
    of_images, of_edges = (branch(x) for branch, x in zip(network.branches, (pair, gradient_length(pair)), strict=True))
    both = torch.cat([of_images, of_edges], dim=1)
    gates = nn.functional.conv2d(both, gated.gate.weight, gated.gate.bias, padding=1).sigmoid()
    expected = nn.functional.conv2d(gates * both, gated.bottleneck.weight, gated.bottleneck.bias)
    for field, told in zip(network.fields(pair), (expected, of_edges, of_images), strict=True):
        torch.testing.assert_close(field, told)


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("instance", nn.InstanceNorm2d)])
def test_every_convolution_of_a_branch_but_the_last_is_normalized(norm, kind):
    network = GatedDualBranch(2, channels=SMALL, norm=norm)
    for branch in network.branches:
        layers = [m for m in branch.modules() if isinstance(m, kind | nn.Conv2d)]
        assert [type(layer) for layer in layers] == [nn.Conv2d, kind] * 11 + [nn.Conv2d]
    (gated,) = network.fuse
    assert not any(isinstance(module, kind) for module in gated.modules())
    assert not any(isinstance(module, kind) for module in GatedDualBranch(2, channels=SMALL).modules())


@pytest.mark.parametrize(
    ("fusion", "more"),
    [*((fusion, {}) for fusion in FUSIONS), ("none", {"norm": "batch"})],
)
def test_script_and_trace_agree(fusion, more):
    network = small(2, fusion, **more)
    pair = a_pair()
    scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(pair), network(pair))
    for ours, theirs in zip(network.fields(pair), scripted.fields(pair), strict=True):
        torch.testing.assert_close(theirs, ours)
    torch.testing.assert_close(torch.jit.trace(network, a_pair())(pair), network(pair))
    with pytest.raises(torch.jit.Error, match="multiples of 16"):
        scripted(torch.rand(1, 2, 16, 24))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fusion": "gate"}, "fusion.*'gate'"),
        ({"channels": (8, 8, 8, 8)}, r"5 channel numbers.*\(8, 8, 8, 8\)"),
        ({"gate_kernel": 4}, "gate_kernel must be odd, got 4"),
    ],
)
def test_unknown_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GatedDualBranch(**arguments)


@pytest.mark.parametrize(
    "shape", [(1, 1, 16, 16, 16), (1, 3, 16, 16, 16), (1, 2, 16, 16), (1, 2, 16, 24, 16), (1, 2, 16, 16, 8)]
)
def test_input_that_does_not_fit_is_refused(shape):
    network = GatedDualBranch(channels=SMALL)
    assert network.stride == 16
    for give in (network, network.fields):
        with pytest.raises(ValueError, match="3 sizes that are multiples of 16"):
            give(torch.rand(shape))


@pytest.mark.parametrize("fusion", ["gated", "average"])
def test_the_final_field_alone_trains_both_branches(fusion):
    network = small(2, fusion).train()
    network(a_pair()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize("kernel", [1, 5])
def test_gate_kernel_is_that_of_the_gates(kernel):
    (gated,) = GatedDualBranch(2, channels=SMALL, gate_kernel=kernel).fuse
    assert convolutions(gated) == [(4, 4, (kernel, kernel), (1, 1)), (4, 2, (1, 1), (1, 1))]
