# SPDX-License-Identifier: Apache-2.0
"""Synthesis of images through modality-independent features (Wang et al. 2019, arXiv:1907.05062, Fig. 2)."""

from __future__ import annotations

from monai.networks.blocks import Convolution
from monai.networks.layers import Pad
from torch import Tensor, nn


def convolution(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    strides: int = 1,
    up: bool = False,
    norm: str | None = "INSTANCE",
    act: str | None = "RELU",
) -> nn.Module:
    """Convolution (kernel 3, border replicated; transposed if ``up``), normalization, activation."""
    kernels = Convolution(
        spatial_dims,
        in_channels,
        out_channels,
        strides=strides,
        padding=None if up else 0,
        norm=norm,
        act=act,
        is_transposed=up,
    )
    # Zero padding would encode positions, which suffice to synthesize an average image.
    return kernels if up else nn.Sequential(Pad[Pad.REPLICATIONPAD, spatial_dims](1), kernels)


class ResidualBlock(nn.Module):
    """Two convolutions with instance normalization, added to the input; ``(B, channels, *spatial)`` is kept."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            convolution(spatial_dims, channels, channels), convolution(spatial_dims, channels, channels, act=None)
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.block(features)


class SynthesisEncoder(nn.Sequential):
    """``G``: an image ``(B, 1, *spatial)`` to modality-independent features ``(B, 4 channels, *spatial / 4)``.

    ``channels`` is the number of kernels at full resolution, doubled by each convolution of stride 2. ``blocks`` is
    that of residual blocks at quarter resolution.
    """

    def __init__(self, spatial_dims: int, channels: int, blocks: int) -> None:
        super().__init__(
            convolution(spatial_dims, 1, channels),
            convolution(spatial_dims, channels, 2 * channels, strides=2),
            convolution(spatial_dims, 2 * channels, 4 * channels, strides=2),
            *[ResidualBlock(spatial_dims, 4 * channels) for _ in range(blocks)],
        )


class SynthesisDecoder(nn.Sequential):
    """``F``: features ``(B, 4 channels, *spatial / 4)`` to an image ``(B, 1, *spatial)`` in [-1, 1]."""

    def __init__(self, spatial_dims: int, channels: int, blocks: int) -> None:
        super().__init__(
            *[ResidualBlock(spatial_dims, 4 * channels) for _ in range(blocks)],
            convolution(spatial_dims, 4 * channels, 2 * channels, strides=2, up=True),
            convolution(spatial_dims, 2 * channels, channels, strides=2, up=True),
            Convolution(spatial_dims, channels, 1, conv_only=True),
            nn.Tanh(),
        )
