# SPDX-License-Identifier: Apache-2.0
"""Gradient-guided dual-branch registration network with gated fusion (Xu et al., ICASSP 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.nets import VoxelMorphUNet
from torch import Tensor, nn

from regplugins.checks import choice
from regplugins.networks.base import RegistrationNetwork
from regplugins.networks.blocks import AverageFusion, GatedFusion, Regression
from regplugins.spatial import gradient_magnitude

FUSIONS = ("gated", "average", "concat", "none")


class Branch(nn.Module):
    """MONAI's ``VoxelMorphUNet`` with strided convolutions, whose last convolution is in float32 under autocast.

    Args:
        in_channels: images, 2 or 4.
        channels: kernels at full resolution, half, quarter and so on.
        norm: MONAI's name of the normalization after each convolution but the last, or None.
    """

    def __init__(self, spatial_dims: int, in_channels: int, channels: Sequence[int], norm: str | None) -> None:
        super().__init__()
        full = channels[0]
        unet = VoxelMorphUNet(
            spatial_dims,
            in_channels,
            unet_out_channels=full,
            channels=[width for step in pairwise(channels) for width in step],
            final_conv_channels=[full, full],
            use_maxpool=False,
            norm=norm,
        )
        self.unet, refinement = unet.net
        self.refinement = refinement[:-1]
        self.regression = Regression(spatial_dims, full)

    def forward(self, images: Tensor) -> Tensor:
        return self.regression(self.refinement(self.unet(images)))


class GatedDualBranch(RegistrationNetwork):
    """Branch that registers the images, branch that registers their gradient magnitudes, and a gate that fuses both.

    Each branch is VoxelMorph: a convolution, four of stride 2, upsampling with skip connections, and three convolutions
    that give the field. The gradient magnitudes are computed inside.

    Args:
        fusion: "gated"; or the paper's baselines: "average" of both fields, "concat" (VM(concat): one branch on images
            and gradient magnitudes) or "none" (VM: one branch on the images).
        channels: kernels at full resolution, half, quarter, eighth and sixteenth.
        norm: MONAI's name of the normalization after the convolutions: VoxelMorph has None, "batch" learns faster.
        gate_kernel: kernel size of the gates' convolution, odd.

    Raises:
        ValueError: if the fusion is unknown, the number of channels is wrong, or the kernel is even.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        fusion: str = "gated",
        channels: Sequence[int] = (16, 32, 32, 32, 32),
        norm: str | None = None,
        gate_kernel: int = 3,
    ) -> None:
        super().__init__(spatial_dims, stride=16)
        choice("fusion", fusion, dict.fromkeys(FUSIONS))
        if len(channels) != 5:
            raise ValueError(f"expected 5 channel numbers (full resolution to a sixteenth), got {channels}")
        if gate_kernel % 2 != 1:
            raise ValueError(f"gate_kernel must be odd, got {gate_kernel}")
        self.fusion = fusion
        self.branches = nn.ModuleList([Branch(spatial_dims, 4 if fusion == "concat" else 2, channels, norm)])
        self.fuse = nn.ModuleList()
        if fusion in ("gated", "average"):
            self.branches.append(Branch(spatial_dims, 2, channels, norm))
            self.fuse.append(GatedFusion(spatial_dims, gate_kernel) if fusion == "gated" else AverageFusion())

    def forward(self, pair: Tensor) -> Tensor:
        """Return the fused displacement."""
        return self.fields(pair)[0]

    def fields(self, pair: Tensor) -> list[Tensor]:
        """Return the fused field and, if there are two branches, those of gradients and images.

        Each is ``(B, n, *spatial)`` in voxels.
        """
        self.check(pair)
        inputs = [pair] if self.fusion == "none" else [pair, gradient_magnitude(pair)]
        if self.fusion == "concat":
            inputs = [torch.cat(inputs, dim=1)]
        fields: list[Tensor] = []
        for k, branch in enumerate(self.branches):
            fields.insert(0, branch(inputs[k]))
        for fuse in self.fuse:
            fields.insert(0, fuse(fields[1], fields[0]))
        return fields
