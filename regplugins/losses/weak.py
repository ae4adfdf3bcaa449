# SPDX-License-Identifier: Apache-2.0
"""Weak supervision: an objective plus the overlap of warped labels (after Hu et al., Medical Image Analysis 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai.losses import DiceLoss
from torch import Tensor, nn

from regplugins.spatial import warp


class WeaklySupervisedLoss(nn.Module):
    """``objective + weight * (1 - soft Dice)`` of the fixed labels and the moving labels, each class warped linearly.

    Args:
        objective: loss ``(fields, target) -> scalar`` on the images.
        weight: of the Dice term.
    """

    def __init__(self, objective: nn.Module, weight: float) -> None:
        super().__init__()
        self.objective = objective
        self.weight = weight
        self.dice = DiceLoss(smooth_nr=1e-5, smooth_dr=1e-5)

    def forward(self, fields: Sequence[Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, a scalar.

        Args:
            fields: DDFs, finest first.
            target: that of the objective, and ``moving_label`` and ``fixed_label``: ``(B, K, *spatial)``, one channel
                per class without background.
        """
        warped = warp(target["moving_label"], fields[0])
        return self.objective(fields, target) + self.weight * self.dice(warped, target["fixed_label"].float())
