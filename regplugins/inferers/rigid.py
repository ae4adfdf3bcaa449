# SPDX-License-Identifier: Apache-2.0
"""From the few numbers that a rigid network gives to a field."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regplugins.checks import whole
from regplugins.inferers.base import FieldInferer, check_finite
from regplugins.spatial import AffineTransform, Grid, rigid_transform, warp


class RigidInferer(FieldInferer):
    """Run a network that gives angles and shifts, and make of them the field that every other network gives.

    Args:
        spacing: of the pair's grid, mm, one number or one an axis.
        passes: how often the network looks; from the second time on at the moving image as the last one left it.
        amp: compute convolutions in bfloat16, see ``FieldInferer``.
        compile: translate the network first, see ``FieldInferer``.

    Raises:
        TypeError: ``amp`` or ``compile`` is no boolean.
        ValueError: if ``passes`` is not a whole number of at least 1.
    """

    def __init__(
        self, spacing: Sequence[float] | float, passes: int = 1, amp: bool = False, compile: bool = False
    ) -> None:
        super().__init__(amp, compile=compile)
        self.spacing = spacing
        self.passes = whole("passes", passes)

    def _field(self, pair: Tensor, network: nn.Module) -> Tensor:
        return torch.cat([self._of_one(one, network) for one in pair.split(1)])

    def _of_one(self, pair: Tensor, network: nn.Module) -> Tensor:
        shape = tuple(pair.shape[2:])
        steps = self.spacing if isinstance(self.spacing, (list, tuple)) else [self.spacing] * len(shape)
        grid = Grid(shape, torch.diag(torch.tensor([*steps, 1.0], dtype=torch.float64)))
        moving, fixed = pair.split(1, dim=1)
        motion, seen = AffineTransform.identity(3), pair
        for left in reversed(range(self.passes)):
            (parameters,) = network(seen)
            check_finite(parameters, network)
            motion = AffineTransform(motion.matrix @ rigid_transform(parameters, grid.center).matrix)
            field = motion.sample(grid).to_ddf()[None].to(pair)
            if left:
                seen = torch.cat([warp(moving, field), fixed], dim=1)
        return field
