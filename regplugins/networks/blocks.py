# SPDX-License-Identifier: Apache-2.0
"""Blocks shared by several networks."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from torch import Tensor, nn


def average_pool(features: Tensor, size: int, stride: int) -> Tensor:
    """Means over windows of ``(B, C, *spatial)``, 2-D or 3-D."""
    if features.dim() == 4:
        return F.avg_pool2d(features, size, stride)
    return F.avg_pool3d(features, size, stride)


class Regression(nn.Module):
    """Convolution to a displacement ``(B, n, *spatial)`` in voxels; float32 under autocast, initially near zero."""

    def __init__(self, spatial_dims: int, in_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](
            in_channels, spatial_dims, kernel_size=kernel_size, padding=kernel_size // 2
        )
        nn.init.normal_(self.conv.weight, std=1e-5)
        nn.init.zeros_(self.conv.bias)

    def forward(self, features: Tensor) -> Tensor:
        # bfloat16 has three digits: a displacement of 5 voxels would have an error of 0.02
        if torch.jit.is_scripting():  # a script cannot disable autocast for an unknown device
            return self.conv(features.float())
        with torch.autocast(device_type=features.device.type, enabled=False):
            return self.conv(features.float())


class SelfSimilarity(nn.Module):
    """Descriptors of ``regplugins.losses.MIND`` (self-similarity context), for networks that are to be exported.

    They agree up to rounding in flat images. Patches have three voxels along each axis, one voxel from the center, and
    the image continues from its border.

    Attributes:
        edges: for each descriptor of a channel, where its two patches begin in the image padded by two voxels.
    """

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        signs = ((1, 1), (-1, -1), (-1, 1), (1, -1))
        self.edges = [
            [
                [1 + first * (axis == j) for axis in range(spatial_dims)],
                [1 + last * (axis == k) for axis in range(spatial_dims)],
            ]
            for j, k in combinations(range(spatial_dims), 2)
            for first, last in signs
        ]

    def forward(self, image: Tensor) -> Tensor:
        """Return ``(B, C * edges, *spatial)``, in [0, 1], of an image ``(B, C, *spatial)``."""
        n = image.dim() - 2
        padded = F.pad(image.float(), [2, 2] * n, mode="replicate")  # float16 has no variance as small as the least
        maps: list[Tensor] = []
        for edge in self.edges:
            patches = [padded, padded]
            for which, start in enumerate(edge):
                for k, first in enumerate(start):
                    patches[which] = patches[which].narrow(k + 2, first, image.size(k + 2) + 2)
            squares = (patches[0] - patches[1]).square()
            maps.append(average_pool(squares, 3, 1))
        distances = torch.stack(maps, dim=2)
        maps.clear()  # a third of the peak memory
        variance = distances.mean(2, keepdim=True)
        mean = variance.mean(list(range(2, n + 3)), keepdim=True)
        variance = variance.clamp(0.001 * mean, 1000 * mean).clamp(min=1e-12)
        nearest = distances.amin(2, keepdim=True)
        return ((nearest - distances) / variance).exp().flatten(1, 2)


class AverageFusion(nn.Module):
    """Mean of two displacement fields ``(B, n, *spatial)``."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (first + second) / 2


class GatedFusion(nn.Module):
    """Voxelwise weighting and mixing of two displacement fields (Xu et al., ICASSP 2021, Fig. 2b).

    A convolution of both fields with a sigmoid gives two gates of ``n`` channels. Each field is multiplied by its gate,
    and a 1 x 1 x 1 convolution mixes the two. Before training the gates are about one half, and the result is about the
    average.

    Args:
        kernel_size: of the gates' convolution, odd; the paper does not give it.
        features: number of features that the gates' convolution sees beside the fields, with weights that start at
            zero; none in the paper. If there are some, each call needs them.
    """

    def __init__(self, spatial_dims: int, kernel_size: int = 3, features: int = 0) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        seen = 2 * spatial_dims + features
        self.gate = conv(seen, 2 * spatial_dims, kernel_size=kernel_size, padding=kernel_size // 2)
        nn.init.zeros_(self.gate.weight[:, 2 * spatial_dims :])
        self.bottleneck = conv(2 * spatial_dims, spatial_dims, kernel_size=1)
        nn.init.zeros_(self.gate.bias)
        nn.init.zeros_(self.bottleneck.bias)
        with torch.no_grad():  # a random mixture would rotate displacements before training
            identity = torch.eye(spatial_dims).repeat(1, 2)
            self.bottleneck.weight.copy_(identity.view_as(self.bottleneck.weight))

    def forward(self, first: Tensor, second: Tensor, features: Tensor | None = None) -> Tensor:
        """Fuse two displacements ``(B, n, *spatial)`` into one; ``features`` are ``(B, features, *spatial)``."""
        if torch.jit.is_scripting():
            return self._fuse(torch.cat([first, second], dim=1), features)
        with torch.autocast(device_type=first.device.type, enabled=False):
            return self._fuse(torch.cat([first.float(), second.float()], dim=1), features)

    def _fuse(self, both: Tensor, features: Tensor | None) -> Tensor:
        return self.bottleneck(self.gates(both, features) * both)

    def gates(self, both: Tensor, features: Tensor | None = None) -> Tensor:
        """Gates ``(B, 2 n, *spatial)`` of two fields ``(B, 2 n, *spatial)``."""
        return torch.sigmoid(self.gate(both if features is None else torch.cat([both, features.float()], dim=1)))


class MLP(nn.Module):
    """``y = W2 tanh(W1 x + b1) + b2`` with standardized features and outputs; the scaling is part of the state.

    Args:
        features: number of inputs.
        outputs: number of outputs.
        hidden: number of neurons.
    """

    if TYPE_CHECKING:  # TorchScript would look for these names and not find them
        feature_mean: Tensor
        feature_scale: Tensor
        output_mean: Tensor
        output_scale: Tensor

    def __init__(self, features: int, outputs: int, hidden: int = 10) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, hidden)
        self.output = nn.Linear(hidden, outputs)
        for name, size in (("feature", features), ("output", outputs)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(B, outputs)`` for features ``(B, features)``."""
        values = self.output(torch.tanh(self.hidden((features - self.feature_mean) / self.feature_scale)))
        return values * self.output_scale + self.output_mean
