# SPDX-License-Identifier: Apache-2.0
"""Objective of a pair that is registered without a network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from monai.losses import MaskedLoss
from torch import Tensor, nn

from regplugins.checks import not_negative
from regplugins.spatial import warp


class PairLoss(nn.Module):
    """``Σ w_k similarity_k(moving∘φ, fixed) + λ regularization(φ)``.

    A masked similarity is multiplied by the mask's mean, so that masking does not weaken the regularization.

    Args:
        similarity: one loss or several, ours or MONAI's: ``(warped, fixed) -> scalar``, each ``(B, 1, *spatial)``. A
            loss that takes a mask as third argument must return the mean under it. With masks, other losses must be
            wrapped in ``monai.losses.MaskedLoss``. That sets both images to zero outside the mask, which mutual
            information counts as a match.
        regularization: loss ``ddf -> scalar`` on voxel displacements.
        regularization_weight: λ.
        weights: of the similarities; default: all one.

    Raises:
        ValueError: if there is no similarity, or the weights are not one finite non-negative number for each.
        TypeError: if a similarity or the regularization is not a module.
    """

    def __init__(
        self,
        similarity: nn.Module | Sequence[nn.Module],
        regularization: nn.Module,
        regularization_weight: float,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        similarities: list[Any] = list(similarity) if isinstance(similarity, list | tuple) else [similarity]
        for name, losses in (("similarity", similarities), ("regularization", [regularization])):
            for loss in losses:
                if not isinstance(loss, nn.Module):
                    raise TypeError(f"{name} must be a loss, such as regplugins.losses has, got {loss!r}")
        self.similarities = nn.ModuleList(similarities)
        given = [1.0] * len(self.similarities) if weights is None else weights
        self.weights = [not_negative("weight", one) for one in given]
        if not self.similarities or len(self.weights) != len(self.similarities):
            raise ValueError(f"got {len(self.similarities)} similarities and {len(self.weights)} weights")
        self.regularization = regularization
        self.regularization_weight = not_negative("regularization_weight", regularization_weight)

    def extra_repr(self) -> str:
        return f"weights={self.weights}, regularization_weight={self.regularization_weight}"

    def forward(self, fields: Sequence[Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, a scalar.

        Args:
            fields: a single DDF, ``(B, n, *spatial)`` voxels.
            target: ``moving``, ``fixed`` and optionally ``mask``, the weight of each voxel: ``(B, 1, *spatial)``.

        Raises:
            ValueError: if there is a mask, and a similarity that takes none.
        """
        (ddf,) = fields
        mask = target.get("mask")
        warped = warp(target["moving"], ddf)
        total: Tensor = self.regularization_weight * self.regularization(ddf)
        for weight, similarity in zip(self.weights, self.similarities, strict=True):
            value = masked_similarity(similarity, warped, target["fixed"], mask)
            # The regularization is a mean over the whole grid, so the masked mean is scaled to the same base. MONAI's
            # wrapper does so itself.
            if mask is not None and not isinstance(similarity, MaskedLoss):
                value = value * mask.mean()
            total = total + weight * value
        return total


def masked_similarity(similarity: nn.Module, warped: Tensor, fixed: Tensor, mask: Tensor | None) -> Tensor:
    """Return the loss of two images ``(B, 1, *spatial)``, under a mask if there is one.

    Raises:
        ValueError: if there is a mask, and the loss takes none.
    """
    if mask is None:
        value: Tensor = similarity(warped, fixed)
        return value
    if "mask" not in inspect.signature(similarity.forward).parameters:
        name = type(similarity).__name__
        raise ValueError(f"{name} takes no mask; wrap it in monai.losses.MaskedLoss")
    value = similarity(warped, fixed, mask)
    return value
