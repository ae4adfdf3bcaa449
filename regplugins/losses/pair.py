# SPDX-License-Identifier: Apache-2.0
"""The objective of a pair that is registered without a network."""

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

    A similarity under a mask counts by the mask's mean, so that a voxel that is compared weighs the same against λ,
    however many others are not.

    Args:
        similarity: one loss or several, ours or MONAI's: ``(warped, fixed) -> scalar``, each ``(B, 1, *spatial)``. A
            mask is handed over as the third argument, and the mean under it is to come back; losses of MONAI that take
            none are to be wrapped in ``monai.losses.MaskedLoss`` where there is one. That sets both images to zero
            where the mask is zero, and a mutual information counts what it hides as matching.
        regularization: loss ``ddf -> scalar`` on voxel displacements.
        regularization_weight: λ.
        weights: of the similarities; default: all one.

    Raises:
        ValueError: no similarity, another number of weights, or a weight that is negative or no finite number.
        TypeError: a similarity or the regularization is no module, but its name, say.
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
        """
        Args:
            fields: the DDF alone, ``(B, n, *spatial)`` voxels.
            target: ``moving`` and ``fixed`` ``(B, 1, *spatial)``; ``mask`` ``(B, 1, *spatial)``, optional, weighs where
                the images are to be compared.

        Returns:
            A scalar.

        Raises:
            ValueError: there is a mask, and a similarity that takes none.
        """
        (ddf,) = fields
        mask = target.get("mask")
        warped = warp(target["moving"], ddf)
        total: Tensor = self.regularization_weight * self.regularization(ddf)
        for weight, similarity in zip(self.weights, self.similarities, strict=True):
            value = masked_similarity(similarity, warped, target["fixed"], mask)
            # A mean over what the mask leaves, beside one over the whole grid: without the mask's share a field would
            # be the freer the smaller the mask. MONAI's wrapper takes the mean over the whole grid itself.
            if mask is not None and not isinstance(similarity, MaskedLoss):
                value = value * mask.mean()
            total = total + weight * value
        return total


def masked_similarity(similarity: nn.Module, warped: Tensor, fixed: Tensor, mask: Tensor | None) -> Tensor:
    """What a loss makes of two images ``(B, 1, *spatial)``, under a mask if there is one.

    Raises:
        ValueError: there is a mask, and the loss takes none.
    """
    if mask is None:
        value: Tensor = similarity(warped, fixed)
        return value
    if "mask" not in inspect.signature(similarity.forward).parameters:
        name = type(similarity).__name__
        raise ValueError(f"{name} takes no mask; wrap it in monai.losses.MaskedLoss")
    value = similarity(warped, fixed, mask)
    return value
