# SPDX-License-Identifier: Apache-2.0
"""Distance of a predicted field from the known warp of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from regplugins.checks import not_negative


class KnownWarpLoss(nn.Module):
    """Mean squared distance from the known warp, in voxels; ``objective`` for pairs whose warp is not known.

    The mean is over the foreground: where neither the fixed image nor its paired image, if there is one, is 0.
    Elsewhere nothing shows the warp. An image with noise in its background has no zeros, and counts as a whole.
    Squares, because the most likely displacement is 0, and the field of least mean distance stays there until the
    network tells displacements apart. Not in the papers, which have no known warps.

    Args:
        objective: loss ``(fields, target) -> scalar`` on the images.
        objective_weight: its weight. Squares of voxels are large beside a similarity in [0, 1].
        branch_weight: weight of the distance of each field but the first, those of a network's branches.

    Raises:
        ValueError: if a weight is negative.
    """

    def __init__(self, objective: nn.Module, objective_weight: float = 1.0, branch_weight: float = 0.5) -> None:
        super().__init__()
        self.objective = objective
        self.objective_weight = not_negative("objective_weight", objective_weight)
        self.branch_weight = not_negative("branch_weight", branch_weight)

    def forward(self, fields: Tensor | Sequence[Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of one DDF or several, ``(B, n, *spatial)`` in voxels, a scalar, averaged over the batch.

        ``target`` is that of the objective, on the fields' grid, and optionally ``fixed_paired`` and, if warps are
        known, ``truth``, ``(B, n, *spatial)`` in voxels, NaN for a pair of unknown warp.
        """
        several = [fields] if isinstance(fields, Tensor) else list(fields)
        truth = target.get("truth", torch.full_like(several[0], torch.nan))
        known = truth.flatten(1).isfinite().all(dim=1)
        total = several[0].new_zeros(())
        if known.any():
            foreground = ((target["fixed"] > 0) & (target.get("fixed_paired", target["fixed"]) > 0))[known].flatten(1)
            for k, ddf in enumerate(several):
                squares = (ddf[known].float() - truth[known]).square().sum(dim=1).flatten(1)
                means = (foreground * squares).sum(dim=1) / foreground.sum(dim=1).clamp(min=1)
                total = total + (self.branch_weight if k else 1.0) * means.sum() / len(ddf)
        if not known.all():
            rest = {key: value[~known] for key, value in target.items()}
            unknown = [ddf[~known] for ddf in several]
            objective = self.objective(unknown[0] if isinstance(fields, Tensor) else unknown, rest)
            total = total + self.objective_weight * (~known).float().mean() * objective
        return total
