# SPDX-License-Identifier: Apache-2.0
"""Network of Li and Fan: formulas, variants, refused input, export."""

import pytest
import torch
from torch import nn

from regplugins.networks import MultiResolutionFCN, load_weights


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Set weights so large that differences are visible; the field of a new network is nearly zero."""
    torch.manual_seed(seed)
    for regression in network.regressions:
        nn.init.normal_(regression.conv.weight, std=0.1)
    return network.eval()


def convolutions(network: nn.Module) -> list[tuple[int, int, tuple[int, ...], tuple[int, ...]]]:
    layers = [m for m in network.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    return [(m.in_channels, m.out_channels, tuple(m.kernel_size), tuple(m.stride)) for m in layers]


def test_kernels_of_the_paper():
    three, one, two = (3, 3, 3), (1, 1, 1), (2, 2, 2)
    assert convolutions(MultiResolutionFCN().trunk) == [
        (2, 32, three, one),
        (32, 64, three, one),
        (64, 128, three, one),
        (128, 64, three, one),
    ]
    assert convolutions(MultiResolutionFCN().upsamplings) == [(64, 64, three, two), (64, 32, three, two)]
    assert convolutions(MultiResolutionFCN().regressions) == [(c, 3, three, one) for c in (64, 64, 32)]
    assert convolutions(MultiResolutionFCN(variant="no_pooling").trunk) == [
        (2, 32, three, one),
        (32, 64, three, one),
        (64, 128, three, one),
    ]


@pytest.mark.parametrize(("spatial_dims", "shape"), [(2, (12, 8)), (3, (8, 12, 4))])
def test_fields_halve_from_scale_to_scale(spatial_dims, shape):
    network = lively(MultiResolutionFCN(spatial_dims))
    pair = torch.rand(2, 2, *shape)
    fields = network.fields(pair)
    assert [tuple(f.shape) for f in fields] == [
        (2, spatial_dims, *(size // step for size in shape)) for step in (1, 2, 4)
    ]
    assert torch.equal(network(pair), fields[0])


@pytest.mark.parametrize("variant", ["no_pooling", "coarse"])
def test_variants_give_one_full_field(variant):
    network = lively(MultiResolutionFCN(variant=variant))
    pair = torch.rand(1, 2, 8, 12, 8)
    (field,) = network.fields(pair)
    assert field.shape == (1, 3, 8, 12, 8)
    assert torch.equal(network(pair), field)


def test_coarse_field_is_the_quarter_field_in_voxels_of_the_full_grid():
    network = lively(MultiResolutionFCN(variant="coarse"))
    pair = torch.rand(1, 2, 16, 16, 16)
    quarter = network.regressions[0](network.trunk(pair))
    torch.testing.assert_close(network(pair)[..., ::4, ::4, ::4], 4 * quarter)


def test_voxel_i_of_a_coarser_grid_lies_on_voxel_two_i():
    """With symmetric kernels the response to one voxel is symmetric about its position in each grid."""
    network = lively(MultiResolutionFCN(spatial_dims=2))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            weight = module.weight.data
            module.weight.data = (weight + weight.flip(-1) + weight.flip(-2) + weight.flip(-1).flip(-2)) / 4
    pair = torch.zeros(1, 2, 32, 32)
    pair[:, :, 16, 16] = 1
    for step, field in zip((1, 2, 4), network.fields(pair), strict=True):
        center, radius = 16 // step, 12 // step
        window = field[..., center - radius : center + radius + 1, center - radius : center + radius + 1]
        torch.testing.assert_close(window, window.flip(-1).flip(-2), rtol=1e-4, atol=1e-6)
        assert window.std() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"variant": "fine"}, "fine"), ({"channels": (8, 8)}, r"\(8, 8\)"), ({"regression_kernel": 4}, "4")],
)
def test_unknown_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiResolutionFCN(**arguments)


@pytest.mark.parametrize("variant", ["multires", "no_pooling", "coarse"])
def test_script_and_trace_agree(variant):
    network = lively(MultiResolutionFCN(variant=variant))
    pair = torch.rand(1, 2, 8, 8, 12)
    torch.testing.assert_close(torch.jit.script(network)(pair), network(pair))
    torch.testing.assert_close(torch.jit.trace(network, torch.rand(1, 2, 8, 8, 8))(pair), network(pair))


class TestLoadWeights:
    def test_named_files(self, tmp_path):
        trained = {name: lively(MultiResolutionFCN(2), seed) for seed, name in enumerate(("model", "model_weak"))}
        for name, network in trained.items():
            torch.save(network.state_dict(), tmp_path / f"{name}.pt")
        pair = torch.rand(1, 2, 8, 8)
        for name, argument in (("model", None), ("model_weak", "weak")):
            network = load_weights(MultiResolutionFCN(2), tmp_path, argument).eval()
            assert torch.equal(network(pair), trained[name](pair))

    def test_random_leaves_the_network_alone(self, tmp_path):
        network = MultiResolutionFCN(2)
        before = {k: v.clone() for k, v in network.state_dict().items()}
        after = load_weights(network, tmp_path, "random").state_dict()
        assert all(torch.equal(before[k], after[k]) for k in before)

    def test_missing_file_names_what_is_there(self, tmp_path):
        torch.save({}, tmp_path / "model.pt")
        with pytest.raises(FileNotFoundError, match=r"model_weka\.pt.*model\.pt"):
            load_weights(MultiResolutionFCN(2), tmp_path, "weka")

    def test_truncated_file_is_named(self, tmp_path):
        torch.save(MultiResolutionFCN(2).state_dict(), tmp_path / "model.pt")
        content = (tmp_path / "model.pt").read_bytes()
        (tmp_path / "model.pt").write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=r"model\.pt.*damaged"):
            load_weights(MultiResolutionFCN(2), tmp_path)

    def test_weights_of_another_network_are_refused(self, tmp_path):
        torch.save(MultiResolutionFCN(2, variant="coarse").state_dict(), tmp_path / "model.pt")
        with pytest.raises(ValueError, match=r"model\.pt"):
            load_weights(MultiResolutionFCN(2), tmp_path)
