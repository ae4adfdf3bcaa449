# SPDX-License-Identifier: Apache-2.0
"""BFGS with a backtracking line search, from several starts at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Fraction of the decrease that the slope promises which a step must reach (Armijo's condition).
_SUFFICIENT = 1e-4
_BACKTRACKS = 6
# A step is shortened to the minimum of the parabola through what is known, within these bounds.
_SHORTEST, _LONGEST = 0.1, 0.5

# Costs (B,) and gradients (B, k) of parameters (B, k) of the given starts (B,).
Cost = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def minimize_bfgs(cost: Cost, start: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Minimize a cost from each start, independently; all are evaluated together.

    Nocedal and Wright, "Numerical Optimization" (2006), algorithm 6.1. The first step has length 1; scale parameters
    accordingly.

    Args:
        cost: evaluates parameters ``(B, k)`` of the starts with the given numbers ``(B,)``: costs ``(B,)``, infinite
            where parameters are not allowed, and gradients ``(B, k)``.
        start: ``(starts, k)`` float64.
        iterations: largest number of steps.
        tolerance: a start is done when a step lowers its cost by less than this fraction of its first gradient's norm.

    Returns:
        ``(starts, k)``, none of them worse than its start.
    """
    best = start.clone()
    rows = torch.arange(len(start))
    costs, gradients = cost(best, rows)
    scale = gradients.norm(dim=1)
    rows = rows[scale > 0]
    inverse_hessians = torch.eye(start.shape[1], dtype=start.dtype) / scale.clamp(min=1e-300)[:, None, None]
    for _ in range(iterations):
        if len(rows) == 0:
            break
        before, slopes = costs[rows], gradients[rows]
        directions = -(inverse_hessians[rows] @ slopes[..., None])[..., 0]
        steps, costs[rows], gradients[rows] = _line_search(cost, best, rows, directions, before, slopes)
        moves = steps[:, None] * directions
        best[rows] += moves
        inverse_hessians[rows] = _updated(inverse_hessians[rows], moves, gradients[rows] - slopes)
        rows = rows[before - costs[rows] > tolerance * scale[rows]]
    return best


def _line_search(
    cost: Cost, origin: Tensor, rows: Tensor, directions: Tensor, before: Tensor, slopes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Step lengths, 0 where no step lowers the cost enough, with the costs and gradients there."""
    rates = (directions * slopes).sum(dim=1)
    accepted, costs, gradients = torch.zeros_like(before), before.clone(), slopes.clone()
    steps = torch.ones_like(before)
    open_ones = torch.arange(len(rows))
    for _ in range(_BACKTRACKS):
        trial = origin[rows[open_ones]] + steps[open_ones, None] * directions[open_ones]
        values, derivatives = cost(trial, rows[open_ones])
        rate, step, start = rates[open_ones], steps[open_ones], before[open_ones]
        is_low = values <= start + _SUFFICIENT * step * rate
        done = open_ones[is_low]
        accepted[done], costs[done], gradients[done] = step[is_low], values[is_low], derivatives[is_low]
        parabola = -rate * step / (2 * (values - start - rate * step)).clamp(min=1e-300)
        steps[open_ones] = step * parabola.clamp(_SHORTEST, _LONGEST)
        open_ones = open_ones[~is_low]
        if len(open_ones) == 0:
            break
    return accepted, costs, gradients


def _updated(inverse: Tensor, moves: Tensor, changes: Tensor) -> Tensor:
    """Inverse Hessians ``(B, k, k)`` after the BFGS update; unchanged where the curvature is not positive."""
    curvature = (moves * changes).sum(dim=1)
    rho = torch.where(curvature > 0, 1 / curvature.clamp(min=1e-300), 0)[:, None, None]
    identity = torch.eye(moves.shape[1], dtype=moves.dtype)
    left = identity - rho * moves[:, :, None] * changes[:, None, :]
    return left @ inverse @ left.mT + rho * moves[:, :, None] * moves[:, None, :]
