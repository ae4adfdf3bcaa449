# SPDX-License-Identifier: Apache-2.0
"""Multi-resolution fully convolutional registration network (Li and Fan, ISBI 2018, arXiv:1801.04012)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn

from regplugins.checks import choice
from regplugins.networks.base import RegistrationNetwork
from regplugins.networks.blocks import Regression
from regplugins.spatial import upsample_ddf

VARIANTS = ("multires", "no_pooling", "coarse")


class ConvModule(nn.Sequential):
    """Convolution (kernel 3, stride 1) or deconvolution (kernel 3, stride 2: twice the size), batch norm, ReLU."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, upsample: bool = False) -> None:
        if upsample:
            conv = Conv[Conv.CONVTRANS, spatial_dims](
                in_channels, out_channels, kernel_size=3, stride=2, padding=1, output_padding=1, bias=False
            )
        else:
            conv = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        super().__init__(conv, Norm[Norm.BATCH, spatial_dims](out_channels), nn.ReLU(inplace=True))


class MultiResolutionFCN(RegistrationNetwork):
    """Fields at quarter, half and full resolution from one network without skip connections.

    Convolutions of 32, 64, 128 and 64 kernels, max pooling after each of the first two, and deconvolutions of 64 and
    32. A regression convolution gives the field at each resolution. Voxel ``i`` of a coarser grid lies on voxel ``2 i``
    of the next finer one.

    Args:
        variant: "multires"; or the paper's baselines: "no_pooling" (modules 1 to 3 and one regression, all at full
            resolution) or "coarse" (one regression at quarter resolution, upsampled linearly).
        channels: kernels of convolution modules 1 to 4 and of the two deconvolutions.
        regression_kernel: kernel size of the regression convolutions, odd.

    Raises:
        ValueError: if the variant is unknown, the number of channels is wrong, or the kernel is even.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        variant: str = "multires",
        channels: Sequence[int] = (32, 64, 128, 64, 64, 32),
        regression_kernel: int = 3,
    ) -> None:
        super().__init__(spatial_dims, stride=1 if variant == "no_pooling" else 4)
        choice("variant", variant, dict.fromkeys(VARIANTS))
        if len(channels) != 6:
            raise ValueError(f"expected 6 channel numbers (four convolutions, two deconvolutions), got {channels}")
        if regression_kernel % 2 != 1:
            raise ValueError(f"regression_kernel must be odd, got {regression_kernel}")
        self.variant = variant
        c1, c2, c3, c4, d1, d2 = channels
        pooling = Pool[Pool.MAX, spatial_dims](kernel_size=3, stride=2, padding=1)
        trunk: list[nn.Module] = [ConvModule(spatial_dims, 2, c1), pooling, ConvModule(spatial_dims, c1, c2), pooling]
        if variant == "no_pooling":
            trunk = [module for module in trunk if module is not pooling]
        trunk.append(ConvModule(spatial_dims, c2, c3))
        if variant == "no_pooling":
            self.trunk = nn.Sequential(*trunk)
            self.regressions = nn.ModuleList([Regression(spatial_dims, c3, regression_kernel)])
            self.upsamplings = nn.ModuleList()
        else:
            self.trunk = nn.Sequential(*trunk, ConvModule(spatial_dims, c3, c4))
            widths = [c4] if variant == "coarse" else [c4, d1, d2]
            self.regressions = nn.ModuleList([Regression(spatial_dims, w, regression_kernel) for w in widths])
            self.upsamplings = nn.ModuleList(
                [ConvModule(spatial_dims, a, b, upsample=True) for a, b in pairwise(widths)]
            )

    def forward(self, pair: Tensor) -> Tensor:
        """Return the displacement at full resolution."""
        self.check(pair)
        features = self.trunk(pair)
        for upsampling in self.upsamplings:
            features = upsampling(features)
        return self._full_size(self.regressions[-1](features))

    def fields(self, pair: Tensor) -> list[Tensor]:
        """Return fields in voxels of their own grids: full, half and quarter resolution; of other variants the full."""
        self.check(pair)
        features = self.trunk(pair)
        fields = [self.regressions[0](features)]
        for upsampling, regression in zip(self.upsamplings, self.regressions[1:], strict=True):
            features = upsampling(features)
            fields.insert(0, regression(features))
        return [self._full_size(fields[0]), *fields[1:]]

    def _full_size(self, ddf: Tensor) -> Tensor:
        return upsample_ddf(ddf, 4) if self.variant == "coarse" else ddf
