# SPDX-License-Identifier: Apache-2.0
"""Objective of the multi-resolution FCN (Li and Fan, ISBI 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from regplugins.spatial import downsample, warp


class MultiResolutionLoss(nn.Module):
    """Weighted sum over resolutions of ``similarity(warped moving, fixed) + weight * regularization(DDF)`` (Eq. 1 and
    "loss 1 to 3").

    Args:
        similarity: loss ``(warped, fixed, mask) -> scalar``, each ``(B, C, *spatial)``.
        regularization: loss ``ddf -> scalar`` on voxel displacements.
        regularization_weight: the paper's λ, whose value it does not give.
        scale_weights: finest first; the paper's 1, 0.6 and 0.3, read in that order.
    """

    def __init__(
        self,
        similarity: nn.Module,
        regularization: nn.Module,
        regularization_weight: float,
        scale_weights: Sequence[float] = (1.0, 0.6, 0.3),
    ) -> None:
        super().__init__()
        self.similarity = similarity
        self.regularization = regularization
        self.regularization_weight = regularization_weight
        self.scale_weights = tuple(scale_weights)

    def forward(self, fields: Sequence[Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, a scalar.

        Args:
            fields: DDFs ``(B, n, *spatial)`` in voxels of their own grids, finest first, each at half the resolution of
                the previous one.
            target: ``moving``, ``fixed`` and optionally ``mask``, the weight of each voxel: ``(B, 1, *spatial)``,
                finest grid.

        Raises:
            ValueError: if there are more fields than scale weights.
        """
        if len(fields) > len(self.scale_weights):
            raise ValueError(f"{len(fields)} fields but only {len(self.scale_weights)} scale weights")
        moving, fixed, mask = target["moving"], target["fixed"], target.get("mask")
        total = moving.new_zeros(())
        for level, (ddf, weight) in enumerate(zip(fields, self.scale_weights, strict=False)):
            if level:
                moving, fixed = downsample(moving), downsample(fixed)
                mask = None if mask is None else downsample(mask)
            similarity = self.similarity(warp(moving, ddf), fixed, mask)
            total = total + weight * (similarity + self.regularization_weight * self.regularization(ddf))
        return total
