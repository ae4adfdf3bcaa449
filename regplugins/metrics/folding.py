# SPDX-License-Identifier: Apache-2.0
"""Regularity of a transform: the share of folded voxels and the variation of the local volume change.

Both follow from the Jacobian determinant, which is the same in voxels and in millimeters.
"""

from __future__ import annotations

import torch
from torch import Tensor


def folding_percent(determinant: Tensor) -> Tensor:
    """Percent of voxels ``(B,)`` at which a transform folds or collapses space.

    There the Jacobian determinant ``(B, *spatial)`` is zero, negative or NaN.
    """
    folded = ~(determinant > 0).flatten(1)
    return 100 * folded.sum(dim=1) / folded.shape[1]


def sd_log_jacobian(determinant: Tensor) -> Tensor:
    """Standard deviation ``(B,)`` of the logarithm of the Jacobian determinant over the voxels that do not fold.

    The determinant is ``(B, *spatial)``. The result is dimensionless, zero for uniform scaling, NaN where all voxels
    fold.
    """
    logs = [sample[sample > 0].log() for sample in determinant.flatten(1)]
    return torch.stack([(log - log.mean()).square().mean().sqrt() for log in logs])


def sd_log_jacobian_learn2reg(determinant: Tensor) -> Tensor:
    """SDlogJ as the Learn2Reg challenge computes it (Hering et al., IEEE TMI 2023), for comparison with its tables.

    Three is added to the determinant ``(B, *spatial)``, so that moderate folds have a logarithm, and the sum is clipped
    to [1e-9, 1e9]. Two voxels at each border are left out. The result, ``(B,)``, is about a quarter of
    :func:`sd_log_jacobian`; NaN where an axis has fewer than five voxels.
    """
    inner = determinant[(slice(None), *[slice(2, -2)] * (determinant.dim() - 1))].flatten(1)
    log = (inner + 3).clamp(1e-9, 1e9).log()
    return (log - log.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()
