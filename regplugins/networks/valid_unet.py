# SPDX-License-Identifier: Apache-2.0
"""U-Net without padding that predicts the field in the center of a patch (Cao et al., MLMI 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn

from regplugins.networks.base import RegistrationNetwork
from regplugins.networks.blocks import Regression
from regplugins.spatial import center_crop


class ValidBlock(nn.Sequential):
    """Two unpadded convolutions (kernel 3), each with batch normalization and ReLU: two voxels less at each face."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                Conv[Conv.CONV, spatial_dims](channels, out_channels, kernel_size=3, bias=False),
                Norm[Norm.BATCH, spatial_dims](out_channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class ValidUNet(RegistrationNetwork):
    """Displacement field in the center of a patch: for ``4 k + 40`` voxels along an axis, the inner ``4 k``.

    Two convolutions at full, half and quarter resolution on the way down, and at half and full resolution on the way
    up, without padding. Max pooling down, transposed convolutions (2 x 2 x 2, stride 2) up, cropped skip connections,
    and a 1 x 1 x 1 convolution without activation. Sizes for the paper's patch: 68, 64, 32, 28, 14, 10, 20, 16, 32, 28.
    The field at a voxel depends only on the ``margin`` voxels around it and on its position modulo 4. Hence it does not
    depend on the tiling of a volume.

    Args:
        channels: kernels at full, half and quarter resolution.
        patch_shape: of the input, to be checked before training; default: not checked.

    Raises:
        ValueError: if the number of channels is wrong, or the patch size does not fit.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        channels: Sequence[int] = (32, 64, 128),
        patch_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(spatial_dims, stride=4)
        if len(channels) != 3:
            raise ValueError(f"expected 3 channel numbers (full, half and quarter resolution), got {channels}")
        full, half, quarter = channels
        # Voxels that the convolutions remove at each face: 2 + 2 x 2 + 4 x 2 on the way down, 2 x 2 + 2 up.
        self.margin = 20
        # Peak memory per input voxel, usually at full resolution on the way up: 3.3 to 3.8 numbers for each of ``full``
        # channels were measured on large volumes. If half and quarter resolution, with an eighth and a 64th of the
        # voxels, have many channels, the peak is there.
        below = max(4 * full + 15 * half // 8, 4 * full + half // 2 + 15 * quarter // 64)
        self.voxel_bytes = max(15 * full, below)
        if patch_shape is not None:
            self.check_patch(list(patch_shape))
        self.pool = Pool[Pool.MAX, spatial_dims](kernel_size=2)
        widths = ((2, full), (full, half), (half, quarter))
        self.encoder = nn.ModuleList(ValidBlock(spatial_dims, a, b) for a, b in widths)
        up = Conv[Conv.CONVTRANS, spatial_dims]
        self.upsamplings = nn.ModuleList(up(a, b, kernel_size=2, stride=2) for a, b in ((quarter, half), (half, full)))
        self.decoder = nn.ModuleList(ValidBlock(spatial_dims, 2 * width, width) for width in (half, full))
        self.regression = Regression(spatial_dims, full, kernel_size=1)

    def check(self, pair: Tensor) -> None:
        """Raise ``ValueError`` if the pair has not two channels, or a size that is not ``4 k + 2 margin``."""
        if pair.dim() != self.spatial_dims + 2 or pair.shape[1] != 2:
            raise ValueError(f"expected (B, 2, *spatial) of {self.spatial_dims} axes, got {pair.shape}")
        self.check_patch(list(pair.shape[2:]))

    def check_patch(self, shape: list[int]) -> None:
        """Raise ``ValueError`` if a patch size does not fit; the message gives the nearest sizes."""
        if len(shape) != self.spatial_dims:
            raise ValueError(f"expected {self.spatial_dims} patch sizes, got {shape}")
        smallest = 2 * self.margin + self.stride
        for size in shape:
            if size < smallest or size % self.stride != 0:
                below = max(smallest, size // self.stride * self.stride)
                raise ValueError(
                    f"a patch of {shape} does not fit: sizes are {2 * self.margin} and a multiple of {self.stride}, "
                    f"such as, next to {size}, {below} and {below + self.stride}"
                )

    def forward(self, pair: Tensor) -> Tensor:
        """Return the displacement ``(B, n, *spatial - 2 margin)`` in voxels of the patch's center."""
        self.check(pair)
        features = pair
        skips: list[Tensor] = []
        for k, block in enumerate(self.encoder):
            features = block(features if k == 0 else self.pool(features))
            skips.append(features)
        skips.pop()
        for upsampling, block in zip(self.upsamplings, self.decoder):  # noqa: B905 (a script knows no strict)
            features, skip = upsampling(features), skips.pop()
            shape = [min(features.size(k), skip.size(k)) for k in range(2, features.dim())]
            features = block(torch.cat([center_crop(skip, shape), center_crop(features, shape)], dim=1))
        return self.regression(features)
