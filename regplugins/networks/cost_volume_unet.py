# SPDX-License-Identifier: Apache-2.0
"""U-Net on the costs of displacements of MIND descriptors."""

from __future__ import annotations

import math
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
    """Convolution (features continue from their border), batch normalization and leaky ReLU."""

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, stride: int = 1, kernel_size: int = 3
    ) -> None:
        super().__init__(
            Conv[Conv.CONV, spatial_dims](
                in_channels,
                out_channels,
                kernel_size,
                stride=stride,
                padding=kernel_size // 2,
                padding_mode="replicate",
                bias=False,
            ),
            Norm[Norm.BATCH, spatial_dims](out_channels),
            nn.LeakyReLU(0.1, inplace=True),
        )


class Expectation(nn.Module):
    """Expected displacement where ``exp(-sharpness * cost)`` is a displacement's likelihood; float32 under autocast.

    Args:
        displacements: by whole steps, each of one number per axis.
    """

    def __init__(self, displacements: list[list[int]]) -> None:
        super().__init__()
        self.register_buffer("displacements", torch.tensor(displacements).float().T, persistent=False)

    def mean(self, likelihood: Tensor) -> Tensor:
        """Sum of displacements by their likelihoods ``(B, displacements, *spatial)``."""
        # Type checkers take a buffer for "Tensor | Module", and TorchScript refuses an annotation.
        return torch.matmul(self.displacements, likelihood.flatten(2)).unflatten(2, likelihood.shape[2:])  # type: ignore[arg-type]

    def forward(self, costs: Tensor, log_sharpness: Tensor) -> Tensor:
        """Return ``(B, n, *spatial)``, steps, of costs ``(B, displacements, *spatial)``."""
        likelihood = (-log_sharpness.exp() * costs.float()).softmax(dim=1)
        if torch.jit.is_scripting():  # a script cannot disable autocast for an unknown device
            return self.mean(likelihood)
        with torch.autocast(device_type=costs.device.type, enabled=False):
            return self.mean(likelihood)


def displacements_within(spatial_dims: int, reach: int) -> list[list[int]]:
    """Displacements by whole steps, at most ``reach`` along each axis; the first has ``-reach`` along all."""
    return [list(steps) for steps in product(range(-reach, reach + 1), repeat=spatial_dims)]


def to_voxels(field: Tensor) -> Tensor:
    """Upsample a displacement ``(B, n, *blocks)`` in blocks of two voxels to ``(B, n, *spatial)`` in voxels."""
    return 2 * interpolated(field, [2 * size for size in field.shape[2:]])


def interpolated(image: Tensor, size: list[int]) -> Tensor:
    """Interpolate ``(B, C, *spatial)`` linearly to another number of voxels of the same field of view."""
    return F.interpolate(image, size=size, mode="bilinear" if image.dim() == 4 else "trilinear")


class CostVolumeUNet(RegistrationNetwork):
    """Displacement field from what each of a set of displacements costs, voxel by voxel.

    The cost of a displacement is the mean squared difference of descriptors of both images (``MIND``, self-similarity
    context), less its mean over the displacements. Coarse displacements are whole blocks of two voxels along each axis,
    at most ``radius`` of them, and compare the blocks' mean descriptors; fine ones are at most one voxel, and their
    costs are averaged over blocks. Costs, and coarse ones smoothed over windows of about 6 and 12 blocks, give expected
    displacements. That of the windows of 6 is the field before training. A U-Net, which gets the costs, all expected
    displacements, the images and the descriptors, adds to it. The field has one vector a block and is upsampled
    linearly.

    Cost volume, smoothing and expectation follow Heinrich, *Closing the gap between deep and conventional image
    registration using probabilistic dense displacement networks*, MICCAI 2019, who learns the features and has no
    U-Net.

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
        # Descriptors lie in [0, 1], and their costs differ by about 0.01.
        self.log_sharpness = nn.Parameter(torch.full((4,), math.log(100.0)))
        self.descriptor = SelfSimilarity(spatial_dims)
        descriptors = 2 * len(self.descriptor.edges)
        self.coarse = displacements_within(spatial_dims, whole("radius", radius))
        self.fine = displacements_within(spatial_dims, 1)
        self.coarse_expectation = Expectation(self.coarse)
        self.fine_expectation = Expectation(self.fine)
        self.costs = ConvolutionBlock(spatial_dims, len(self.coarse) + len(self.fine), half, kernel_size=1)
        self.merge = ConvolutionBlock(spatial_dims, half + 4 * spatial_dims + 2 + descriptors, half)
        self.encoder = nn.ModuleList(
            nn.Sequential(ConvolutionBlock(spatial_dims, a, b, stride=2), ConvolutionBlock(spatial_dims, b, b))
            for a, b in ((half, quarter), (quarter, eighth))
        )
        up = Conv[Conv.CONVTRANS, spatial_dims]
        pairs = ((eighth, quarter), (quarter, half))
        self.upsamplings = nn.ModuleList(up(a, b, kernel_size=2, stride=2) for a, b in pairs)
        self.decoder = nn.ModuleList(ConvolutionBlock(spatial_dims, 2 * b, b) for _, b in pairs)
        self.regression = Regression(spatial_dims, half)

    def cost_volume(self, features: Tensor, displacements: list[list[int]], block: int) -> Tensor:
        """Mean squared differences ``(B, displacements, *spatial)``, less their mean, of moving and fixed features.

        Each is averaged over blocks of ``block`` voxels of the features along each axis.
        """
        moving, fixed = features.chunk(2, dim=1)
        reach = -displacements[0][0]
        moving = F.pad(moving, [reach] * (2 * self.spatial_dims), mode="replicate")
        costs: list[Tensor] = []
        for displacement in displacements:
            shifted = moving
            for k, steps in enumerate(displacement):
                shifted = shifted.narrow(k + 2, reach + steps, fixed.size(k + 2))
            costs.append(average_pool((shifted - fixed).square().mean(1, keepdim=True), block, block))
        volume = torch.cat(costs, dim=1)
        return volume - volume.mean(1, keepdim=True)

    def expected_displacements(self, coarse: Tensor, fine: Tensor) -> list[Tensor]:
        """Expectations ``(B, n, *spatial)``, blocks: of fine costs, of coarse ones, of these in windows of 6 and 12."""
        expected = [
            self.fine_expectation(fine, self.log_sharpness[0]) / 2,
            self.coarse_expectation(coarse, self.log_sharpness[1]),
        ]
        windows = coarse
        for level in (2, 3):
            windows = average_pool(windows, 2, 2)
            padded = F.pad(windows, [2] * (2 * self.spatial_dims), mode="replicate")
            smooth = average_pool(average_pool(padded, 3, 1), 3, 1)
            mean = self.coarse_expectation(smooth, self.log_sharpness[level])
            expected.append(interpolated(mean, list(coarse.shape[2:])))
        return expected

    def forward(self, pair: Tensor) -> Tensor:
        """Return the displacement ``(B, n, *spatial)`` in voxels."""
        return to_voxels(self.block_field(pair)[0])

    def block_field(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Return the displacement ``(B, n, *blocks)`` in blocks, and the features ``(B, channels[0], *blocks)``."""
        self.check(pair)
        descriptors = self.descriptor(pair)
        blocks = average_pool(torch.cat([pair, descriptors], dim=1), 2, 2)
        coarse = self.cost_volume(blocks[:, 2:], self.coarse, 1)
        fine = self.cost_volume(descriptors, self.fine, 2)
        expected = self.expected_displacements(coarse, fine)
        costs = self.costs(torch.cat([coarse, fine], dim=1))
        features = self.merge(torch.cat([costs, torch.cat(expected, dim=1), blocks], dim=1))
        skips: list[Tensor] = []
        for block in self.encoder:
            skips.append(features)
            features = block(features)
        for upsampling, block in zip(self.upsamplings, self.decoder):  # noqa: B905 (a script knows no strict)
            features = block(torch.cat([skips.pop(), upsampling(features)], dim=1))
        return expected[2] + self.regression(features), features
