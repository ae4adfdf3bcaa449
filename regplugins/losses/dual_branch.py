# SPDX-License-Identifier: Apache-2.0
"""Objective of the gradient-guided dual-branch network (Xu et al., ICASSP 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from regplugins.spatial import gradient_magnitude, warp


class DualBranchLoss(nn.Module):
    """``sim(moving∘φ, fixed) + α sim(gmoving∘φg, gfixed) + β smooth(φ) + γ smooth(φg)`` (Eq. 2), ``g`` the gradient
    magnitudes.

    With a single field, of a network with one branch or of an optimized pair, the terms of ``φg`` are left out.

    Args:
        similarity: loss ``(warped, fixed, mask) -> scalar``, each ``(B, C, *spatial)``; the paper's is that of MIND.
        regularization: loss ``ddf -> scalar`` on voxel displacements; the paper's is the squared gradient.
        gradient_weight: α; in the paper 0.5 for abdomens and 0.4 for kidneys.
        regularization_weight: β; 1 and 0.8.
        gradient_regularization_weight: γ; 0.5 and 0.3.
    """

    def __init__(
        self,
        similarity: nn.Module,
        regularization: nn.Module,
        gradient_weight: float = 0.5,
        regularization_weight: float = 1.0,
        gradient_regularization_weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.similarity = similarity
        self.regularization = regularization
        self.gradient_weight = gradient_weight
        self.regularization_weight = regularization_weight
        self.gradient_regularization_weight = gradient_regularization_weight

    def forward(self, fields: Sequence[Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, a scalar.

        Args:
            fields: the final DDF and, with two branches, that of the gradient branch: ``(B, n, *spatial)`` voxels.
            target: ``moving``, ``fixed`` and optionally ``mask``, the weight of each voxel: ``(B, 1, *spatial)``.
        """
        moving, fixed, mask = target["moving"], target["fixed"], target.get("mask")
        total = self.similarity(warp(moving, fields[0]), fixed, mask)
        total = total + self.regularization_weight * self.regularization(fields[0])
        for ddf in fields[1:]:
            edges = warp(gradient_magnitude(moving), ddf)
            total = total + self.gradient_weight * self.similarity(edges, gradient_magnitude(fixed), mask)
            total = total + self.gradient_regularization_weight * self.regularization(ddf)
        return total
