# SPDX-License-Identifier: Apache-2.0
"""What all registration networks have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class RegistrationNetwork(nn.Module):
    """A network on a pair ``(B, 2, *spatial)``, moving and fixed image; ``forward`` gives what inference needs.

    Args:
        spatial_dims: 2 or 3.
        stride: every spatial size of the pair is a multiple of this.
    """

    def __init__(self, spatial_dims: int, stride: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.stride = stride

    def check(self, pair: Tensor) -> None:
        """
        Raises:
            ValueError: not two channels, or a size that is no multiple of ``stride``.
        """
        fits = pair.dim() == self.spatial_dims + 2 and pair.shape[1] == 2
        for size in pair.shape[2:]:
            fits = fits and size % self.stride == 0
        if not fits:
            raise ValueError(
                f"expected (B, 2, *spatial) with {self.spatial_dims} sizes that are multiples of {self.stride}, "
                f"got {pair.shape}"
            )

    def fields(self, pair: Tensor) -> Any:
        """All that a training loss needs; what that is, is between the network and its objective."""
        return self(pair)
