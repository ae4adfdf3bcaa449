# SPDX-License-Identifier: Apache-2.0
"""Synthesis of images: to features that do not tell the modality, and from them to an image of a modality (Wang et al.
2019, arXiv:1907.05062, Fig. 2).
"""

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
    """Convolution (kernel 3), normalization, activation; transposed if ``up``, else the image's border continues."""
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
    # Of zeros the features would tell where in the grid they are: enough for an average image, whatever is shown.
    return kernels if up else nn.Sequential(Pad[Pad.REPLICATIONPAD, spatial_dims](1), kernels)


class ResidualBlock(nn.Module):
    """Two convolutions with instance normalization, added to what goes in; ``(B, channels, *spatial)`` to the like."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            convolution(spatial_dims, channels, channels), convolution(spatial_dims, channels, channels, act=None)
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.block(features)


class SynthesisEncoder(nn.Sequential):
    """``G``: an image ``(B, 1, *spatial)`` to features ``(B, 4 channels, *spatial / 4)`` that do not tell its modality.

    Args:
        spatial_dims: 2 or 3.
        channels: kernels at full resolution; twice and four times as many after either convolution of stride 2.
        blocks: residual blocks at quarter resolution.
    """

    def __init__(self, spatial_dims: int, channels: int, blocks: int) -> None:
        super().__init__(
            convolution(spatial_dims, 1, channels),
            convolution(spatial_dims, channels, 2 * channels, strides=2),
            convolution(spatial_dims, 2 * channels, 4 * channels, strides=2),
            *[ResidualBlock(spatial_dims, 4 * channels) for _ in range(blocks)],
        )


class SynthesisDecoder(nn.Sequential):
    """``F``: features ``(B, 4 channels, *spatial / 4)`` to an image ``(B, 1, *spatial)`` in [-1, 1].

    Args:
        spatial_dims: 2 or 3.
        channels: kernels at full resolution.
        blocks: residual blocks at quarter resolution.
    """

    def __init__(self, spatial_dims: int, channels: int, blocks: int) -> None:
        super().__init__(
            *[ResidualBlock(spatial_dims, 4 * channels) for _ in range(blocks)],
            convolution(spatial_dims, 4 * channels, 2 * channels, strides=2, up=True),
            convolution(spatial_dims, 2 * channels, channels, strides=2, up=True),
            Convolution(spatial_dims, channels, 1, conv_only=True),
            nn.Tanh(),
        )
