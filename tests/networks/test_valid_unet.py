# SPDX-License-Identifier: Apache-2.0
"""Unpadded network of Cao et al.: formulas, receptive field, refused input."""

import pytest
import torch
from torch import nn

from regplugins.networks import ValidUNet


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Set weights and statistics so large that differences are visible; the field of a new network is nearly zero."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.01, 0.1)
            nn.init.uniform_(module.bias, 0.1, 0.5)
    nn.init.normal_(network.regression.conv.weight, std=0.1)
    return network.eval()


def test_sizes_of_the_paper():
    network = ValidUNet(channels=(2, 3, 4))
    sizes: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.MaxPool3d | nn.ConvTranspose3d):
            module.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    field = network(torch.rand(1, 2, 68, 68, 68))
    assert field.shape == (1, 3, 28, 28, 28)
    # 68 -> 64 -> 32 -> 28 -> 14 -> 10 -> 20 -> 16 -> 32 -> 28, each convolution of a pair shown
    assert sizes == [66, 64, 32, 30, 28, 14, 12, 10, 20, 18, 16, 32, 30, 28, 28]


def test_kernels_of_the_paper():
    network = ValidUNet()
    layers = [m for m in network.modules() if isinstance(m, nn.Conv3d)]
    assert [(m.in_channels, m.out_channels) for m in layers] == [
        *((2, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)),
        *((128, 64), (64, 64), (64, 32), (32, 32), (32, 3)),
    ]
    assert all(set(m.padding) == {0} for m in layers)
    upsamplings = [(m.in_channels, m.out_channels, m.kernel_size, m.stride) for m in network.upsamplings]
    assert upsamplings == [(128, 64, (2, 2, 2), (2, 2, 2)), (64, 32, (2, 2, 2), (2, 2, 2))]


@pytest.mark.parametrize("shape", [(44, 44), (48, 68), (44, 48, 52)])
def test_any_multiple_of_four_and_forty(shape):
    network = ValidUNet(len(shape), channels=(2, 2, 2))
    assert network(torch.rand(1, 2, *shape)).shape == (1, len(shape), *(size - 40 for size in shape))


def test_a_voxel_sees_the_margin_about_it_and_no_more():
    """The derivative with respect to the input vanishes beyond the margin of a group of four voxels."""
    network = lively(ValidUNet(2, channels=(4, 4, 4)))
    pair = torch.rand(1, 2, 96, 96, requires_grad=True)
    field = network(pair)
    field[..., 20:24, 24:28].sum().backward()
    seen = pair.grad.abs().amax(dim=(0, 1)) > 0
    rows, columns = seen.any(dim=1).nonzero(), seen.any(dim=0).nonzero()
    # the field's voxel k lies on the input's voxel k + margin
    assert (int(rows.min()), int(rows.max())) == (20, 23 + 2 * network.margin)
    assert (int(columns.min()), int(columns.max())) == (24, 27 + 2 * network.margin)


def test_shifts_by_four_voxels_with_its_input():
    network = lively(ValidUNet(2, channels=(4, 8, 8)))
    pair = torch.rand(1, 2, 72, 64)
    torch.testing.assert_close(network(pair[..., 4:, :])[..., :-4, :], network(pair)[..., 4:-4, :])


def test_scripts_and_exports():
    network = lively(ValidUNet(channels=(2, 2, 2)))
    pair = torch.rand(1, 2, 56, 52, 60)
    torch.testing.assert_close(torch.jit.script(network)(pair), network(pair))


def test_its_patch_is_checked_when_it_is_made():
    ValidUNet(patch_shape=(68, 68, 68))
    with pytest.raises(ValueError, match=r"sizes are 40 and a multiple of 4, such as, next to 70, 68 and 72"):
        ValidUNet(patch_shape=(68, 70, 68))
    with pytest.raises(ValueError, match="next to 40, 44 and 48"):
        ValidUNet(patch_shape=(40, 68, 68))
    with pytest.raises(ValueError, match="expected 3 patch sizes"):
        ValidUNet(patch_shape=(68, 68))


@pytest.mark.parametrize("shape", [(1, 2, 44, 44), (1, 1, 44, 44, 44), (1, 2, 44, 44, 46)])
def test_refuses_other_inputs(shape):
    with pytest.raises(ValueError, match=r"expected|does not fit"):
        ValidUNet(channels=(2, 2, 2))(torch.rand(shape))


def test_refuses_other_numbers_of_channels():
    with pytest.raises(ValueError, match="expected 3 channel numbers"):
        ValidUNet(channels=(32, 64))
