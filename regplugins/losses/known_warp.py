# SPDX-License-Identifier: Apache-2.0
"""Distance of a predicted field from the known warp of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from regplugins.checks import not_negative


class KnownWarpLoss(nn.Module):
    """Mean distance from the known warp, in voxels; ``objective`` for pairs whose warp is not known.

    Not in the papers, which have no known warps.

    Args:
        objective: loss ``(fields, target) -> scalar`` on the images.
        weight: of the distance.

    Raises:
        ValueError: if ``weight`` is negative.
    """

    def __init__(self, objective: nn.Module, weight: float = 1.0) -> None:
        super().__init__()
        self.objective = objective
        self.weight = not_negative("weight", weight)

    def forward(self, fields: Tensor | Sequence[Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a DDF, or of the first of several; a scalar, averaged over the batch.

        ``target`` is that of the objective and, if warps are known, ``truth``, ``(B, n, *spatial)`` in voxels on the
        DDF's grid, NaN for a pair of unknown warp.
        """
        if "truth" not in target:
            image_loss: Tensor = self.objective(fields, target)
            return image_loss
        known = known_warps(target["truth"])
        ddf = fields if isinstance(fields, Tensor) else fields[0]
        total = self.weight * known.float().mean() * mean_distance(ddf[known], target["truth"][known])
        if not known.all():
            rest = {key: value[~known] for key, value in target.items()}
            others = fields[~known] if isinstance(fields, Tensor) else [field[~known] for field in fields]
            total = total + (~known).float().mean() * self.objective(others, rest)
        return total


def known_warps(truth: Tensor) -> Tensor:
    """Pairs of a batch whose ``truth`` ``(B, n, *spatial)`` is finite: ``(B,)``."""
    return truth.flatten(1).isfinite().all(dim=1)


def mean_distance(ddf: Tensor, truth: Tensor) -> Tensor:
    """Mean length of ``ddf - truth``, each ``(B, n, *spatial)`` in voxels; a scalar, 0 for no pairs."""
    if len(ddf) == 0:
        return ddf.new_zeros(())
    return torch.linalg.vector_norm(ddf.float() - truth, dim=1).mean()
