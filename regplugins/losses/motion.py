# SPDX-License-Identifier: Apache-2.0
"""Error of predicted rigid parameters (Islam et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn


class MotionLoss(nn.Module):
    """Half the mean squared error of angles, degrees, and shifts, mm: the paper's "half-mean-squared error"."""

    def forward(self, parameters: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, a scalar, of predicted parameters ``(B, 6)`` and ``target["motion"]``, ``(B, 6)``."""
        return 0.5 * F.mse_loss(parameters.float(), target["motion"])
