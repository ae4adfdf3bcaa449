# SPDX-License-Identifier: Apache-2.0
"""Objectives: of a pair without a network, of papers' networks, of weak supervision, and of rigid parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from monai.losses import DiceLoss, MaskedLoss
from torch import Tensor, nn

from regplugins.checks import not_negative
from regplugins.spatial import downsample, gradient_magnitude, warp


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
            target: ``moving``, ``fixed`` and optionally ``mask``, the weight of each voxel: ``(B, 1, *spatial)``. With
                a mask, a similarity that takes none is a ``ValueError``.
        """
        (ddf,) = fields
        mask = target.get("mask")
        warped = warp(target["moving"], ddf)
        total = ddf.new_zeros(())
        if self.regularization_weight:
            total = self.regularization_weight * self.regularization(ddf)
        for weight, similarity in zip(self.weights, self.similarities, strict=True):
            value = masked_similarity(similarity, warped, target["fixed"], mask)
            # The regularization is a mean over the whole grid, so the masked mean is scaled to the same base. MONAI's
            # wrapper does so itself.
            if mask is not None and not isinstance(similarity, MaskedLoss):
                value = value * mask.mean()
            total = total + weight * value
        return total


def masked_similarity(similarity: nn.Module, warped: Tensor, fixed: Tensor, mask: Tensor | None) -> Tensor:
    """Return the loss of two images ``(B, 1, *spatial)``, under a mask if there is one and the loss takes it."""
    if mask is not None and "mask" not in inspect.signature(similarity.forward).parameters:
        raise ValueError(f"{type(similarity).__name__} takes no mask; wrap it in monai.losses.MaskedLoss")
    value: Tensor = similarity(warped, fixed) if mask is None else similarity(warped, fixed, mask)
    return value


class DualBranchLoss(nn.Module):
    """``sim(moving∘φ, fixed) + α sim(gmoving∘φg, gfixed) + β smooth(φ) + γ smooth(φg)``, ``g`` the gradient magnitudes.

    Eq. 2 of Xu et al., ICASSP 2021. With a single field, of a network with one branch, the terms of ``φg`` are left
    out.

    Args:
        similarity: loss ``(warped, fixed, mask) -> scalar``, each ``(B, C, *spatial)``; the paper's is that of MIND.
        regularization: loss ``ddf -> scalar`` on voxel displacements; the paper's is the squared gradient.
        gradient_weight: α; in the paper 0.5 for abdomens and 0.4 for kidneys.
        regularization_weight: β; 1 and 0.8.
        gradient_regularization_weight: γ; 0.5 and 0.3.

    Raises:
        ValueError: if a weight is negative.
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
        self.gradient_weight = not_negative("gradient_weight", gradient_weight)
        self.regularization_weight = not_negative("regularization_weight", regularization_weight)
        self.gradient_regularization_weight = not_negative(
            "gradient_regularization_weight", gradient_regularization_weight
        )

    def forward(self, fields: Sequence[Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of the final DDF and, with two branches, that of the gradients; see ``PairLoss``."""
        moving, fixed, mask = target["moving"], target["fixed"], target.get("mask")
        total: Tensor = self.similarity(warp(moving, fields[0]), fixed, mask)
        total = total + self.regularization_weight * self.regularization(fields[0])
        for ddf in fields[1:2]:
            edges = warp(gradient_magnitude(moving), ddf)
            total = total + self.gradient_weight * self.similarity(edges, gradient_magnitude(fixed), mask)
            total = total + self.gradient_regularization_weight * self.regularization(ddf)
        return total


class MultiResolutionLoss(nn.Module):
    """Weighted sum over resolutions of ``similarity(warped moving, fixed) + weight * regularization(DDF)``.

    Eq. 1 and "loss 1 to 3" of Li and Fan, ISBI 2018.

    Args:
        similarity: loss ``(warped, fixed, mask) -> scalar``, each ``(B, C, *spatial)``.
        regularization: loss ``ddf -> scalar`` on voxel displacements.
        regularization_weight: the paper's λ, whose value it does not give.
        scale_weights: finest first; the paper's 1, 0.6 and 0.3, read in that order.

    Raises:
        ValueError: if the regularization weight is negative.
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
        self.regularization_weight = not_negative("regularization_weight", regularization_weight)
        self.scale_weights = tuple(scale_weights)

    def forward(self, fields: Sequence[Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of DDFs ``(B, n, *spatial)``, each in voxels of its own grid, finest first.

        Each has half the resolution of the previous one. There are not more than scale weights (else ``ValueError``).
        ``target`` is as of ``PairLoss``, on the finest grid.
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


class WeaklySupervisedLoss(nn.Module):
    """``objective + weight * (1 - soft Dice)`` of the fixed labels and the moving labels, each class warped linearly.

    After Hu et al., Medical Image Analysis 2018.

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
        """Return the loss of DDFs, finest first.

        ``target`` is that of the objective, and ``moving_label`` and ``fixed_label``: ``(B, K, *spatial)``, one channel
        per class without background.
        """
        warped = warp(target["moving_label"], fields[0])
        return self.objective(fields, target) + self.weight * self.dice(warped, target["fixed_label"].float())


class MotionLoss(nn.Module):
    """Half the mean squared error of angles, degrees, and shifts, mm (Islam et al. 2021)."""

    def forward(self, parameters: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, a scalar, of predicted parameters ``(B, 6)`` and ``target["motion"]``, ``(B, 6)``."""
        return 0.5 * F.mse_loss(parameters.float(), target["motion"])
