# SPDX-License-Identifier: Apache-2.0
"""Base class of registration networks, and the network of bundles that register without one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class RegistrationNetwork(nn.Module):
    """Network on a pair ``(B, 2, *spatial)``, moving and fixed image.

    ``forward`` gives the tensor for inference: unless stated otherwise a displacement ``(B, n, *spatial)`` in voxels.
    ``forward`` and ``fields`` raise ``ValueError`` if the pair does not fit, as ``check`` does.

    Args:
        spatial_dims: 2 or 3, as of all parts of networks.
        stride: divisor of every spatial size of the pair.
    """

    def __init__(self, spatial_dims: int, stride: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.stride = stride

    def check(self, pair: Tensor) -> None:
        """Raise ``ValueError`` if the pair has not two channels, or a size that is not a multiple of ``stride``."""
        fits = pair.dim() == self.spatial_dims + 2 and pair.shape[1] == 2
        for size in pair.shape[2:]:
            fits = fits and size % self.stride == 0
        if not fits:
            raise ValueError(
                f"expected (B, 2, *spatial) with {self.spatial_dims} sizes that are multiples of {self.stride}, "
                f"got {pair.shape}"
            )

    def fields(self, pair: Tensor) -> Any:
        """Return the tensors for the training loss; their form is specific to the network and its objective."""
        return self(pair)


class IdentityNetwork(nn.Module):
    """Network without weights that gives a zero displacement."""

    def forward(self, pair: Tensor) -> Tensor:
        """Return zeros ``(B, n, *spatial)`` for a pair ``(B, 2, *spatial)``."""
        return pair.new_zeros((len(pair), pair.dim() - 2, *pair.shape[2:]))
