# SPDX-License-Identifier: Apache-2.0
"""Regularity of a transform: the share of folded voxels and the variation of the local volume change.

Both follow from the Jacobian determinant, which is the same in voxels and in millimeters.
"""

from __future__ import annotations

import torch
from torch import Tensor


def folding_percent(determinant: Tensor) -> Tensor:
    """Percent of voxels at which a transform folds or collapses space.

    Args:
        determinant: Jacobian determinant, ``(B, *spatial)``; NaN counts as folded.

    Returns:
        ``(B,)``, percent of voxels whose determinant is zero or less.
    """
    folded = ~(determinant > 0).flatten(1)
    return 100 * folded.sum(dim=1) / folded.shape[1]


def sd_log_jacobian(determinant: Tensor) -> Tensor:
    """Standard deviation of the logarithm of the Jacobian determinant over the voxels that do not fold.

    Args:
        determinant: Jacobian determinant, ``(B, *spatial)``.

    Returns:
        ``(B,)``, dimensionless; zero for uniform scaling, NaN where every voxel folds.
    """
    logs = [sample[sample > 0].log() for sample in determinant.flatten(1)]
    return torch.stack([(log - log.mean()).square().mean().sqrt() for log in logs])


def sd_log_jacobian_learn2reg(determinant: Tensor) -> Tensor:
    """SDlogJ as the Learn2Reg challenge computes it (Hering et al., IEEE TMI 2023), for comparison with its tables.

    Three is added to the determinant, so that moderate folds have a logarithm, and the sum is clipped to [1e-9, 1e9].
    Two voxels at each border are left out. The result is about a quarter of :func:`sd_log_jacobian`.

    Args:
        determinant: Jacobian determinant, ``(B, *spatial)``.

    Returns:
        ``(B,)``, dimensionless; NaN where an axis has fewer than five voxels.
    """
    inner = determinant[(slice(None), *[slice(2, -2)] * (determinant.dim() - 1))].flatten(1)
    log = (inner + 3).clamp(1e-9, 1e9).log()
    return (log - log.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()
