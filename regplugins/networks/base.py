# SPDX-License-Identifier: Apache-2.0
"""What all registration networks have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class RegistrationNetwork(nn.Module):
    """A network on a pair ``(B, 2, *spatial)``, moving and fixed image; ``forward`` gives what inference needs.

    Args:
        stride: every spatial size of the pair is a multiple of this.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def fields(self, pair: Tensor) -> Any:
        """All that a training loss needs; what that is, is between the network and its objective."""
        return self(pair)
