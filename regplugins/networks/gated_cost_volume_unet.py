# SPDX-License-Identifier: Apache-2.0
"""Dual-branch network with gated fusion whose branches see the costs of displacements."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regplugins.networks.base import RegistrationNetwork
from regplugins.networks.blocks import GatedFusion
from regplugins.networks.cost_volume_unet import CostVolumeUNet, to_voxels
from regplugins.spatial import gradient_magnitude


class GatedCostVolumeUNet(RegistrationNetwork):
    """Branch on the images, branch on their gradient magnitudes, and a gate that fuses both.

    The scheme is that of Xu et al., ICASSP 2021 (``GatedDualBranch``). Each branch is a ``CostVolumeUNet`` in place of
    VoxelMorph. The gate sees the features of both branches beside their fields: they show where a branch is to be
    trusted. Fields are fused at half resolution.

    Args:
        channels: numbers of kernels of each branch at half, quarter and eighth resolution.
        radius: largest displacement along each axis, blocks of two voxels.

    Raises:
        ValueError: if the number of channels is wrong, or ``radius`` is no whole number of at least 1.
    """

    def __init__(self, spatial_dims: int = 3, channels: Sequence[int] = (24, 48, 48), radius: int = 2) -> None:
        super().__init__(spatial_dims, stride=8)
        self.images = CostVolumeUNet(spatial_dims, channels, radius)
        self.gradients = CostVolumeUNet(spatial_dims, channels, radius)
        self.fusion = GatedFusion(spatial_dims, features=2 * channels[0])

    def forward(self, pair: Tensor) -> Tensor:
        """Return the fused displacement."""
        return self.fields(pair)[0]

    def fields(self, pair: Tensor) -> list[Tensor]:
        """Return the fused field and those of gradients and images, each ``(B, n, *spatial)`` in voxels."""
        of_images, image_features = self.images.block_field(pair)
        of_gradients, gradient_features = self.gradients.block_field(gradient_magnitude(pair))
        fused = self.fusion(of_images, of_gradients, torch.cat([image_features, gradient_features], dim=1))
        return [to_voxels(field) for field in (fused, of_gradients, of_images)]
