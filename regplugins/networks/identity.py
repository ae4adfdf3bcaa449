# SPDX-License-Identifier: Apache-2.0
"""Identity network, for bundles that register without a network."""

from __future__ import annotations

from torch import Tensor, nn


class IdentityNetwork(nn.Module):
    """Network without weights that gives a zero displacement."""

    def forward(self, pair: Tensor) -> Tensor:
        """Return zeros ``(B, n, *spatial)`` for a pair ``(B, 2, *spatial)``."""
        return pair.new_zeros((len(pair), pair.dim() - 2, *pair.shape[2:]))
