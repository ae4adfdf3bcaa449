# SPDX-License-Identifier: Apache-2.0
"""What stands where a bundle without a network must name one."""

from __future__ import annotations

from torch import Tensor, nn


class IdentityNetwork(nn.Module):
    """Leaves a pair as it is; has no weights."""

    def forward(self, pair: Tensor) -> Tensor:
        """
        Args:
            pair: ``(B, 2, *spatial)``, moving and fixed image.

        Returns:
            ``(B, n, *spatial)`` zeros.
        """
        return pair.new_zeros((len(pair), pair.dim() - 2, *pair.shape[2:]))
