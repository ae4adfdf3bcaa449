# SPDX-License-Identifier: Apache-2.0
"""Nonlinear least squares with a prior on the weights, by Levenberg-Marquardt steps and MacKay's evidence.

MacKay, "Bayesian interpolation", Neural Computation 4 (1992); with Gauss and Newton's approximation of the Hessian,
Foresee and Hagan, "Gauss-Newton approximation to Bayesian learning", International Conference on Neural Networks
(1997). Here ``E_D = sum(e²) / 2`` and ``E_W = sum(w²) / 2``, as MacKay has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# What the diagonal is first raised by, of its mean; how it changes after a good and after a bad step, and where a step
# is given up.
_FIRST_DAMPING, _LESS, _MORE, _LARGEST_DAMPING = 1e-3, 0.1, 10.0, 1e10

# Of the data, how many weights can be determined at most.
_MOST_DETERMINED = 0.999

Residuals = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Evidence:
    """How much is to be believed.

    Args:
        alpha: inverse variance of the weights.
        beta: inverse variance of the noise.
        effective: number of weights that the data determine (MacKay's gamma).
    """

    alpha: float
    beta: float
    effective: float


def maximize_evidence(
    residuals: Residuals, weights: Tensor, iterations: int = 200, tolerance: float = 1e-6
) -> tuple[Tensor, Evidence]:
    """Lower ``beta E_D + alpha E_W``; after each step ``alpha`` and ``beta`` become what makes the data most likely.

    Args:
        residuals: of weights ``(w,)`` gives what is left ``(d,)`` and its Jacobian ``(d, w)``, float64.
        weights: to start from.
        iterations: at most so many steps.
        tolerance: stop when no step changes the objective by more, relative to its size.

    Returns:
        The weights, and how much they are to be believed.

    Raises:
        ValueError: what is left is not finite at the start.
    """
    weights = weights.to(torch.float64)
    left, jacobian = residuals(weights)
    if not bool(torch.isfinite(left).all() and torch.isfinite(jacobian).all()):
        raise ValueError("residuals are not finite at the weights to start from")
    # Weights that say nothing yet: of Foresee and Hagan.
    evidence = Evidence(0.0, 1.0, float(len(weights)))
    damping, square = _FIRST_DAMPING, jacobian.T @ jacobian
    for _ in range(iterations):
        before = _objective(left, weights, evidence)
        weights, left, jacobian, square, damping = _step(residuals, weights, left, jacobian, square, evidence, damping)
        gain = before - _objective(left, weights, evidence)
        renewed = _renewed(left, square, weights, evidence)
        settled = abs(renewed.effective - evidence.effective) <= tolerance * max(renewed.effective, 1.0)
        evidence = renewed
        if (gain <= tolerance * before and settled) or damping > _LARGEST_DAMPING:
            break
    return weights, evidence


def least_squares(residuals: Residuals, weights: Tensor, iterations: int = 200, tolerance: float = 1e-6) -> Tensor:
    """Levenberg-Marquardt without a prior: lowers ``E_D`` alone. Arguments as for ``maximize_evidence``."""
    weights = weights.to(torch.float64)
    left, jacobian = residuals(weights)
    nothing, damping = Evidence(0.0, 1.0, float(len(weights))), _FIRST_DAMPING
    square = jacobian.T @ jacobian
    for _ in range(iterations):
        before = _objective(left, weights, nothing)
        weights, left, jacobian, square, damping = _step(residuals, weights, left, jacobian, square, nothing, damping)
        if before - _objective(left, weights, nothing) <= tolerance * before or damping > _LARGEST_DAMPING:
            break
    return weights


def _objective(left: Tensor, weights: Tensor, evidence: Evidence) -> float:
    return 0.5 * (evidence.beta * left.square().sum() + evidence.alpha * weights.square().sum()).item()


def _hessian(square: Tensor, evidence: Evidence) -> Tensor:
    hessian = evidence.beta * square
    hessian.diagonal().add_(evidence.alpha)
    return hessian


def _step(
    residuals: Residuals,
    weights: Tensor,
    left: Tensor,
    jacobian: Tensor,
    square: Tensor,
    evidence: Evidence,
    damping: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """The first step, ever shorter, that lowers the objective; where there is none, none. ``square``, of the Jacobian,
    is what takes the time.
    """
    hessian = _hessian(square, evidence)
    slope = evidence.beta * jacobian.T @ left + evidence.alpha * weights
    before, size = _objective(left, weights, evidence), hessian.diagonal().mean()
    while damping <= _LARGEST_DAMPING:
        damped = hessian.clone()
        damped.diagonal().add_(damping * size)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            candidate = weights - torch.cholesky_solve(slope[:, None], factor)[:, 0]
            after, derivative = residuals(candidate)
            if _objective(after, candidate, evidence) < before:
                return candidate, after, derivative, derivative.T @ derivative, damping * _LESS
        damping *= _MORE
    return weights, left, jacobian, square, damping


def _renewed(left: Tensor, square: Tensor, weights: Tensor, evidence: Evidence) -> Evidence:
    """MacKay's re-estimation (Eqs. 4.8 to 4.10)."""
    effective = float(len(weights))
    if evidence.alpha > 0:
        factor, failed = torch.linalg.cholesky_ex(_hessian(square, evidence))
        if failed:  # examples repeat one another, and the prior is lost in the digits: what it was is as good
            return evidence
        effective -= evidence.alpha * torch.cholesky_inverse(factor).trace().item()
    # No more is determined than there are data, some of which are noise.
    effective = min(effective, _MOST_DETERMINED * len(left))
    alpha = effective / weights.square().sum().clamp_min(1e-12).item()
    beta = (len(left) - effective) / left.square().sum().clamp_min(1e-12).item()
    return Evidence(alpha, beta, effective)
