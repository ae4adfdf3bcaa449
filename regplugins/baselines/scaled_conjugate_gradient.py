# SPDX-License-Identifier: Apache-2.0
"""Scaled conjugate gradients: Møller, "A scaled conjugate gradient algorithm for fast supervised learning" (1993)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

# Møller's step of the finite difference along a direction, and initial damping.
_SIGMA, _LAMBDA = 1e-4, 1e-6

Objective = Callable[[Tensor], tuple[float, Tensor]]


def scaled_conjugate_gradient(
    objective: Objective,
    weights: Tensor,
    iterations: int = 200,
    tolerance: float = 1e-8,
) -> Tensor:
    """Minimize an objective by conjugate gradients, with steps scaled by the curvature in place of a line search.

    Args:
        objective: maps weights ``(w,)`` to value and gradient ``(w,)``.
        weights: initial weights.
        iterations: largest number of steps.
        tolerance: stop when the norm of the gradient is below this.
    """
    value, slope = objective(weights)
    direction, downhill = -slope, -slope
    damping, raised, success, curvature = _LAMBDA, 0.0, True, 0.0
    for step in range(1, iterations + 1):
        length = direction.norm().item()
        if length < tolerance:
            break
        if success:
            sigma = _SIGMA / length
            _, ahead = objective(weights + sigma * direction)
            curvature = (direction @ (ahead - slope)).item() / sigma
        curvature += (damping - raised) * length**2
        if curvature <= 0:  # not convex: add enough to make it so
            raised = 2 * (damping - curvature / length**2)
            curvature = -curvature + damping * length**2
            damping = raised
        along = (direction @ downhill).item()
        alpha = along / curvature
        candidate = weights + alpha * direction
        lower, new_slope = objective(candidate)
        comparison = 2 * curvature * (value - lower) / along**2
        success = comparison >= 0
        if success:
            weights, value, slope = candidate, lower, new_slope
            previous, downhill = downhill, -new_slope
            raised = 0.0
            if step % len(weights) == 0:
                direction = downhill
            else:
                beta = (downhill @ downhill - downhill @ previous).item() / along
                direction = downhill + beta * direction
            if comparison >= 0.75:
                damping *= 0.25
            if downhill.norm() < tolerance:
                break
        else:
            raised = damping
        if comparison < 0.25:
            damping += curvature * (1 - comparison) / direction.norm().item() ** 2
    return weights
