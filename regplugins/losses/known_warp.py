# SPDX-License-Identifier: Apache-2.0
"""Distance of a predicted field from the known warp of a pair."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class KnownWarpLoss(nn.Module):
    """Mean squared distance from the known warp, in voxels; ``objective`` for pairs whose warp is not known.

    The mean is over the foreground, where neither the fixed image nor its paired image is 0: elsewhere nothing shows
    the warp. Squares, because the most likely displacement is 0, and the field of least mean distance stays there until
    the network tells displacements apart. Not in the papers, which have no known warps.

    Args:
        objective: loss ``(ddf, target) -> scalar`` on the images.
    """

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, ddf: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a DDF ``(B, n, *spatial)`` in voxels, a scalar, averaged over the batch.

        ``target`` is that of the objective, with ``fixed_paired``, and, if warps are known, ``truth``,
        ``(B, n, *spatial)`` in voxels, NaN for a pair of unknown warp.
        """
        truth = target.get("truth", torch.full_like(ddf, torch.nan))
        known = truth.flatten(1).isfinite().all(dim=1)
        total = ddf.new_zeros(())
        if known.any():
            foreground = ((target["fixed"] > 0) & (target["fixed_paired"] > 0))[known].flatten(1)
            squares = (ddf[known].float() - truth[known]).square().sum(dim=1).flatten(1)
            means = (foreground * squares).sum(dim=1) / foreground.sum(dim=1).clamp(min=1)
            total = total + means.sum() / len(ddf)
        if not known.all():
            rest = {key: value[~known] for key, value in target.items()}
            total = total + (~known).float().mean() * self.objective(ddf[~known], rest)
        return total
