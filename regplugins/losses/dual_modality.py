# SPDX-License-Identifier: Apache-2.0
"""Objective of the network that is supervised in both modalities (Cao et al., MLMI 2018)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regplugins.checks import choice
from regplugins.losses.regularization import MagnitudeLoss, SquaredLaplacianLoss
from regplugins.spatial import center_crop, warp_center

# Compared images by supervision, the first of each pair warped.
_FIXED, _MOVING = ("moving_paired", "fixed"), ("moving", "fixed_paired")
_TERMS = {"dual": (_FIXED, _MOVING), "fixed": (_FIXED,), "moving": (_MOVING,)}
REGIONS = ("patch", "field")
_EPS = 1e-12


class DualModalityLoss(nn.Module):
    """``½ sim(moving_paired∘φ, fixed) + ½ sim(moving∘φ, fixed_paired) + λ1 |∇²φ|² + λ2 |φ|²`` (Eqs. 2 and 4).

    Either similarity compares images of one modality: ``fixed_paired`` shows the moving modality, aligned with the
    fixed image, ``moving_paired`` the fixed modality, aligned with the moving image. The norms are means over the
    voxels of the field, squared or not, which the paper leaves open. The patches may be larger than the field, with the
    same center.

    Args:
        similarity: loss ``(warped, fixed) -> scalar``; the paper's is one minus the NCC of a patch, here without the
            one.
        supervision: "dual", or one term alone with weight one: that of the modality of the "fixed" or the "moving"
            image.
        laplacian_weight: λ1.
        magnitude_weight: λ2.
        similarity_region: compare the whole "patch", warped by the field padded with zeros, as in the paper, or only
            the region of the "field".
        penalty_norm: "squared", means of squares, or "root", their roots.

    Raises:
        ValueError: if ``supervision``, ``similarity_region`` or ``penalty_norm`` is unknown.
    """

    def __init__(
        self,
        similarity: nn.Module,
        supervision: str = "dual",
        laplacian_weight: float = 0.5,
        magnitude_weight: float = 0.01,
        similarity_region: str = "patch",
        penalty_norm: str = "squared",
    ) -> None:
        super().__init__()
        choice("similarity_region", similarity_region, dict.fromkeys(REGIONS))
        self.similarity = similarity
        self.terms = choice("supervision", supervision, _TERMS)
        self.laplacian = SquaredLaplacianLoss()
        self.magnitude = MagnitudeLoss()
        self.laplacian_weight = laplacian_weight
        self.magnitude_weight = magnitude_weight
        self.similarity_region = similarity_region
        self.exponent = choice("penalty_norm", penalty_norm, {"squared": 1.0, "root": 0.5})

    def forward(self, ddf: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, a scalar, of a field ``(B, n, *inner)`` in voxels.

        ``target`` has ``moving``, ``fixed``, ``moving_paired`` and ``fixed_paired``, ``(B, 1, *spatial)``, larger than
        ``inner`` by the same number of voxels at either end.
        """
        penalties = ((self.laplacian_weight, self.laplacian), (self.magnitude_weight, self.magnitude))
        total = ddf.new_zeros(())
        for weight, norm in penalties:
            squares = torch.stack([norm(one) for one in ddf.split(1)])
            # eps keeps the derivative of the root finite
            total = total + weight * ((squares + _EPS) ** self.exponent).mean()
        field = ddf
        if self.similarity_region == "patch":
            margins = [(size - own) // 2 for size, own in zip(target["fixed"].shape[2:], ddf.shape[2:], strict=True)]
            field = F.pad(ddf, [margin for margin in reversed(margins) for _ in range(2)])
        moved = warp_center(torch.cat([target[moving] for moving, _ in self.terms], dim=1), field)
        for warped, (_, fixed) in zip(moved.split(1, dim=1), self.terms, strict=True):
            reference = center_crop(target[fixed], list(field.shape[2:]))
            total = total + self.similarity(warped, reference) / len(self.terms)
        return total
