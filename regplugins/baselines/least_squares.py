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

# Damping: fraction of the mean of the diagonal at first, factors after a good and a bad step, and largest value.
_FIRST_DAMPING, _DECREASE, _INCREASE, _MAX_DAMPING = 1e-3, 0.1, 10.0, 1e10

# Largest number of determined weights, as a fraction of the number of data.
_MAX_DETERMINED = 0.999

Residuals = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Evidence:
    """Inverse variances of the weights and of the noise, and the number of weights that the data determine (gamma)."""

    alpha: float
    beta: float
    effective: float


def maximize_evidence(
    residuals: Residuals, weights: Tensor, iterations: int = 200, tolerance: float = 1e-6
) -> tuple[Tensor, Evidence]:
    """Minimize ``beta E_D + alpha E_W``, and re-estimate ``alpha`` and ``beta`` after each step.

    Args:
        residuals: maps weights ``(w,)`` to residuals ``(d,)`` and their Jacobian ``(d, w)``, float64.
        weights: initial weights.
        iterations: largest number of steps.
        tolerance: stop when the relative decrease of the objective is at most this.

    Returns:
        Weights and hyperparameters.

    Raises:
        ValueError: if the residuals are not finite at the initial weights.
    """
    return _minimize(residuals, weights, iterations, tolerance, is_bayesian=True)


def least_squares(residuals: Residuals, weights: Tensor, iterations: int = 200, tolerance: float = 1e-6) -> Tensor:
    """Minimize ``E_D`` by Levenberg-Marquardt steps, without a prior; arguments as for ``maximize_evidence``."""
    return _minimize(residuals, weights, iterations, tolerance, is_bayesian=False)[0]


def _minimize(
    residuals: Residuals, weights: Tensor, iterations: int, tolerance: float, is_bayesian: bool
) -> tuple[Tensor, Evidence]:
    weights = weights.to(torch.float64)
    left, jacobian = residuals(weights)
    if not bool(torch.isfinite(left).all() and torch.isfinite(jacobian).all()):
        raise ValueError("residuals are not finite at the initial weights")
    # Initial values of Foresee and Hagan.
    evidence = Evidence(0.0, 1.0, float(len(weights)))
    damping, square = _FIRST_DAMPING, jacobian.T @ jacobian
    for _ in range(iterations):
        before = _objective(left, weights, evidence)
        weights, left, jacobian, square, damping = _step(residuals, weights, left, jacobian, square, evidence, damping)
        gain = before - _objective(left, weights, evidence)
        previous = evidence
        if is_bayesian:
            evidence = _updated(left, square, weights, evidence)
        has_settled = abs(evidence.effective - previous.effective) <= tolerance * max(evidence.effective, 1.0)
        if (gain <= tolerance * before and has_settled) or damping > _MAX_DAMPING:
            break
    return weights, evidence


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
    """Increase the damping until a step lowers the objective; without such a step nothing changes.

    ``square``, the Jacobian's, is passed on since it takes most of the time.
    """
    hessian = _hessian(square, evidence)
    slope = evidence.beta * jacobian.T @ left + evidence.alpha * weights
    before, size = _objective(left, weights, evidence), hessian.diagonal().mean()
    while damping <= _MAX_DAMPING:
        damped = hessian.clone()
        damped.diagonal().add_(damping * size)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            candidate = weights - torch.cholesky_solve(slope[:, None], factor)[:, 0]
            after, derivative = residuals(candidate)
            if _objective(after, candidate, evidence) < before:
                return candidate, after, derivative, derivative.T @ derivative, damping * _DECREASE
        damping *= _INCREASE
    return weights, left, jacobian, square, damping


def _updated(left: Tensor, square: Tensor, weights: Tensor, evidence: Evidence) -> Evidence:
    """MacKay's re-estimation (Eqs. 4.8 to 4.10)."""
    effective = float(len(weights))
    if evidence.alpha > 0:
        factor, failed = torch.linalg.cholesky_ex(_hessian(square, evidence))
        if failed:  # repeated examples: the prior is lost in rounding, so keep it
            return evidence
        effective -= evidence.alpha * torch.cholesky_inverse(factor).trace().item()
    # Fewer weights are determined than there are data, since these are noisy.
    effective = min(effective, _MAX_DETERMINED * len(left))
    alpha = effective / weights.square().sum().clamp_min(1e-12).item()
    beta = (len(left) - effective) / left.square().sum().clamp_min(1e-12).item()
    return Evidence(alpha, beta, effective)
