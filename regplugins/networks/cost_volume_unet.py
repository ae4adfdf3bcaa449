# SPDX-License-Identifier: Apache-2.0
"""U-Net on the costs of displacements of MIND descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from regplugins.checks import whole
from regplugins.networks.base import RegistrationNetwork
from regplugins.networks.blocks import Regression, SelfSimilarity, average_pool


class ConvolutionBlock(nn.Sequential):
    """Convolution (kernel 3, features continue from their border), batch normalization and leaky ReLU."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(
            Conv[Conv.CONV, spatial_dims](
                in_channels, out_channels, 3, stride=stride, padding=1, padding_mode="replicate", bias=False
            ),
            Norm[Norm.BATCH, spatial_dims](out_channels),
            nn.LeakyReLU(0.1, inplace=True),
        )


class CostVolumeUNet(RegistrationNetwork):
    """Displacement field from what each of a set of displacements costs, voxel by voxel.

    The descriptors ``MIND`` (self-similarity context) of both images are averaged over blocks of two voxels along each
    axis. The cost of a displacement by whole blocks, at most ``radius`` along each axis, is the mean squared difference
    of the descriptors, less its mean over the displacements. A U-Net gets the costs, the expected displacement, the
    images and the descriptors. Its field has one vector a block and is upsampled linearly.

    The cost volume follows Heinrich, *Closing the gap between deep and conventional image registration using
    probabilistic dense displacement networks*, MICCAI 2019, who learns the features; descriptors and U-Net are ours.

    Args:
        channels: numbers of kernels at half, quarter and eighth resolution.
        radius: largest displacement along each axis, blocks of two voxels.

    Raises:
        ValueError: if the number of channels is wrong, or ``radius`` is no whole number of at least 1.
    """

    def __init__(self, spatial_dims: int = 3, channels: Sequence[int] = (32, 64, 64), radius: int = 2) -> None:
        super().__init__(spatial_dims, stride=8)
        if len(channels) != 3:
            raise ValueError(f"expected 3 channel numbers (half, quarter and eighth resolution), got {channels}")
        half, quarter, eighth = channels
        self.radius = whole("radius", radius)
        self.sharpness = 100.0  # costs of descriptors, which lie in [0, 1], differ by about 0.01
        self.descriptor = SelfSimilarity(spatial_dims)
        descriptors = 2 * len(self.descriptor.edges)
        self.offsets = [list(offset) for offset in product(range(2 * self.radius + 1), repeat=spatial_dims)]
        displacements = torch.tensor(self.offsets, dtype=torch.float32).T - self.radius
        self.register_buffer("displacements", displacements, persistent=False)
        self.costs = ConvolutionBlock(spatial_dims, len(self.offsets), half)
        self.merge = ConvolutionBlock(spatial_dims, half + spatial_dims + 2 + descriptors, half)
        self.encoder = nn.ModuleList(
            nn.Sequential(ConvolutionBlock(spatial_dims, a, b, stride=2), ConvolutionBlock(spatial_dims, b, b))
            for a, b in ((half, quarter), (quarter, eighth))
        )
        up = Conv[Conv.CONVTRANS, spatial_dims]
        pairs = ((eighth, quarter), (quarter, half))
        self.upsamplings = nn.ModuleList(up(a, b, kernel_size=2, stride=2) for a, b in pairs)
        self.decoder = nn.ModuleList(ConvolutionBlock(spatial_dims, 2 * b, b) for _, b in pairs)
        self.regression = Regression(spatial_dims, half)

    def cost_volume(self, features: Tensor) -> Tensor:
        """Mean squared differences ``(B, displacements, *spatial)``, less their mean, of moving and fixed features."""
        moving, fixed = features.chunk(2, dim=1)
        moving = F.pad(moving, [self.radius] * (2 * self.spatial_dims), mode="replicate")
        costs: list[Tensor] = []
        for offset in self.offsets:
            shifted = moving
            for k, start in enumerate(offset):
                shifted = shifted.narrow(k + 2, start, fixed.size(k + 2))
            costs.append((shifted - fixed).square().mean(1))
        volume = torch.stack(costs, dim=1)
        return volume - volume.mean(1, keepdim=True)

    def expected_displacement(self, costs: Tensor) -> Tensor:
        """Expectation ``(B, n, *spatial)``, blocks, where ``exp(-sharpness * cost)`` is a displacement's likelihood."""
        likelihood = (-self.sharpness * costs).softmax(dim=1)
        # Type checkers take a buffer for "Tensor | Module", and TorchScript refuses an annotation.
        return torch.matmul(self.displacements, likelihood.flatten(2)).unflatten(2, costs.shape[2:])  # type: ignore[arg-type]

    def forward(self, pair: Tensor) -> Tensor:
        """Return the displacement ``(B, n, *spatial)`` in voxels."""
        self.check(pair)
        blocks = average_pool(torch.cat([pair, self.descriptor(pair)], dim=1), 2, 2)
        costs = self.cost_volume(blocks[:, 2:])
        features = self.merge(torch.cat([self.costs(costs), self.expected_displacement(costs), blocks], dim=1))
        skips: list[Tensor] = []
        for block in self.encoder:
            skips.append(features)
            features = block(features)
        for upsampling, block in zip(self.upsamplings, self.decoder):  # noqa: B905 (a script knows no strict)
            features = block(torch.cat([skips.pop(), upsampling(features)], dim=1))
        mode = "bilinear" if self.spatial_dims == 2 else "trilinear"
        return 2 * F.interpolate(self.regression(features), scale_factor=2.0, mode=mode)
