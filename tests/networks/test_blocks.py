# SPDX-License-Identifier: Apache-2.0
"""Blocks of networks against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regplugins.losses import MIND
from regplugins.networks.blocks import GatedFusion, Regression, SelfSimilarity

SHAPES = {2: (6, 7), 3: (6, 7, 5)}
dimensions = pytest.mark.parametrize("spatial_dims", [2, 3])


def lively(block: nn.Module) -> nn.Module:
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


def two_fields(spatial_dims: int, size: float = 1.0) -> tuple[Tensor, Tensor]:
    first, second = size * torch.randn(2, 2, spatial_dims, *SHAPES[spatial_dims])
    return first, second


class TestRegression:
    @pytest.mark.parametrize(("spatial_dims", "kernel_size"), [(2, 3), (3, 1), (3, 5)])
    def test_a_component_an_axis_and_nearly_zero_before_training(self, spatial_dims, kernel_size):
        block = Regression(spatial_dims, 4, kernel_size)
        field = block(torch.randn(2, 4, *SHAPES[spatial_dims]))
        assert field.shape == (2, spatial_dims, *SHAPES[spatial_dims])
        assert 0 < field.abs().max() < 1e-2

    def test_is_a_convolution_in_float32_whatever_the_autocast_state(self):
        block = lively(Regression(2, 4))
        features = torch.randn(1, 4, *SHAPES[2])
        expected = F.conv2d(features, block.conv.weight, block.conv.bias, padding=1)
        with torch.autocast("cpu", torch.bfloat16):
            field, rounded = block(features), block.conv(features)
        assert rounded.dtype == torch.bfloat16
        assert field.dtype == torch.float32
        torch.testing.assert_close(field, expected)
        torch.testing.assert_close(torch.jit.script(block)(features), expected)


class TestGatedFusion:
    @pytest.mark.parametrize("kernel_size", [1, 3, 5])
    @dimensions
    def test_gates_and_bottleneck_by_hand(self, spatial_dims, kernel_size):
        block = lively(GatedFusion(spatial_dims, kernel_size))
        first, second = two_fields(spatial_dims)
        both = torch.cat([first, second], dim=1)
        convolve = F.conv2d if spatial_dims == 2 else F.conv3d
        gates = 1 / (1 + torch.exp(-convolve(both, block.gate.weight, block.gate.bias, padding=kernel_size // 2)))
        mixture = torch.einsum("oi,bi...->bo...", block.bottleneck.weight.flatten(1), gates * both)
        expected = mixture + block.bottleneck.bias.view(-1, *[1] * spatial_dims)
        torch.testing.assert_close(block(first, second), expected)
        torch.testing.assert_close(torch.jit.script(block)(first, second), expected)

    @dimensions
    def test_features_enter_the_gates_alone_and_not_before_training(self, spatial_dims):
        first, second = two_fields(spatial_dims)
        features = torch.randn(2, 3, *SHAPES[spatial_dims])
        new = GatedFusion(spatial_dims, features=3)
        torch.testing.assert_close(new(first, second, features), new(first, second, -features))
        block = lively(new)
        both = torch.cat([first, second], dim=1)
        convolve = F.conv2d if spatial_dims == 2 else F.conv3d
        seen = torch.cat([both, features], dim=1)
        gates = torch.sigmoid(convolve(seen, block.gate.weight, block.gate.bias, padding=1))
        expected = convolve(gates * both, block.bottleneck.weight, block.bottleneck.bias)
        torch.testing.assert_close(block(first, second, features), expected)
        torch.testing.assert_close(torch.jit.script(block)(first, second, features), expected)

    @dimensions
    def test_starts_at_the_average(self, spatial_dims):
        first, second = two_fields(spatial_dims, size=1e-3)
        fused = GatedFusion(spatial_dims)(first, second)
        torch.testing.assert_close(fused, (first + second) / 2, atol=1e-5, rtol=0)
        assert fused.abs().max() > 1e-3

    def test_float32_under_autocast(self):
        block = lively(GatedFusion(2))
        first, second = two_fields(2)
        with torch.autocast("cpu", torch.bfloat16):
            fused = block(first, second)
            of_rounded = block(first.bfloat16(), second.bfloat16())
        assert fused.dtype == of_rounded.dtype == torch.float32
        torch.testing.assert_close(fused, block(first, second))


class TestSelfSimilarity:
    @dimensions
    def test_is_the_descriptor_of_the_loss(self, spatial_dims):
        """Also in a half that is almost flat, in which the least variance counts."""
        image = torch.rand(2, 2, *SHAPES[spatial_dims])
        image[0, :, :3] *= 1e-3
        torch.testing.assert_close(SelfSimilarity(spatial_dims)(image), MIND()(image), rtol=1e-4, atol=1e-4)

    def test_flat_image(self):
        assert bool((SelfSimilarity(3)(torch.full((1, 1, *SHAPES[3]), 0.3)) == 1).all())

    def test_script_takes_any_size(self):
        script = torch.jit.script(SelfSimilarity(3))
        for size in (4, 6):
            image = torch.rand(1, 2, size, 5, 7)
            torch.testing.assert_close(script(image), SelfSimilarity(3)(image))
