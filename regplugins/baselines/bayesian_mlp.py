# SPDX-License-Identifier: Apache-2.0
"""Training of a network with one hidden layer on features (Islam et al. 2021, "Registration of multi-modal images")."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from regplugins.baselines.least_squares import Residuals, least_squares, maximize_evidence
from regplugins.checks import choice
from regplugins.networks import MLP

# Møller's step of the finite difference along a direction, and initial damping.
_SIGMA, _LAMBDA = 1e-4, 1e-6

Objective = Callable[[Tensor], tuple[float, Tensor]]


def train_mlp(
    features: Tensor,
    targets: Tensor,
    method: str = "bayesian",
    hidden: int = 10,
    iterations: int = 200,
    seed: int = 0,
) -> MLP:
    """Train a network with one hidden layer on all examples at once.

    Args:
        features: ``(examples, features)``.
        targets: ``(examples, outputs)``.
        method: "bayesian" (regularized, ``maximize_evidence``), or "levenberg_marquardt" or
            "scaled_conjugate_gradient", both without regularization.
        hidden: neurons of the hidden layer.
        iterations: largest number of steps.
        seed: of the initial weights.

    Returns:
        The network, float32.

    Raises:
        ValueError: if the method is unknown, values are not finite, or there are not as many targets as features or
            less than two examples.
    """
    if len(features) != len(targets) or len(features) < 2 or features.dim() != 2 or targets.dim() != 2:
        raise ValueError(
            "expected two or more examples, features (examples, features) and targets (examples, outputs), got "
            f"{tuple(features.shape)} and {tuple(targets.shape)}"
        )
    if not bool(torch.isfinite(features).all() and torch.isfinite(targets).all()):
        raise ValueError("features and targets must be finite")
    network = MLP(features.shape[1], targets.shape[1], hidden)
    for name, values in (("feature", features.double()), ("output", targets.double())):
        scale = values.std(dim=0)
        setattr(network, f"{name}_mean", values.mean(dim=0))
        setattr(network, f"{name}_scale", torch.where(scale > 0, scale, torch.ones_like(scale)))
    network = network.double()
    inputs = (features.double() - network.feature_mean) / network.feature_scale
    outputs = (targets.double() - network.output_mean) / network.output_scale
    residuals = _residuals(network, inputs, outputs)
    start = _start(network, seed)
    methods: dict[str, Callable[[], Tensor]] = {
        "bayesian": lambda: maximize_evidence(residuals, start, iterations)[0],
        "levenberg_marquardt": lambda: least_squares(residuals, start, iterations),
        "scaled_conjugate_gradient": lambda: scaled_conjugate_gradient(
            _gradient(network, inputs, outputs), start, iterations
        ),
    }
    weights = choice("method", method, methods)()
    torch.nn.utils.vector_to_parameters(weights, network.parameters())
    return network.float()


def _start(network: MLP, seed: int) -> Tensor:
    """Small random weights that do not saturate tanh."""
    random = torch.Generator().manual_seed(seed)
    parts = []
    for parameter in network.parameters():
        fan_in = parameter.shape[1] if parameter.dim() == 2 else 1
        scale = 0.0 if parameter.dim() == 1 else fan_in**-0.5
        parts.append(scale * torch.randn(parameter.numel(), generator=random, dtype=torch.float64))
    return torch.cat(parts)


def _split(weights: Tensor, network: MLP) -> list[Tensor]:
    shapes = [parameter.shape for parameter in network.parameters()]
    parts = weights.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _residuals(network: MLP, inputs: Tensor, outputs: Tensor) -> Residuals:
    """Residuals of the network and their Jacobian with respect to all weights, without a loop over examples."""

    def evaluate(weights: Tensor) -> tuple[Tensor, Tensor]:
        w1, b1, w2, b2 = _split(weights, network)
        activity = torch.tanh(inputs @ w1.T + b1)
        left = activity @ w2.T + b2 - outputs
        examples, numbers = outputs.shape
        # Derivative with respect to the hidden layer's inputs: (examples, numbers, hidden).
        inner = w2 * (1 - activity.square())[:, None]
        by_w1 = torch.einsum("enh,ef->enhf", inner, inputs).reshape(examples * numbers, -1)
        eye = torch.eye(numbers, dtype=weights.dtype)
        by_w2 = torch.einsum("nm,eh->enmh", eye, activity).reshape(examples * numbers, -1)
        by_b2 = eye.expand(examples, -1, -1).reshape(examples * numbers, -1)
        jacobian = torch.cat([by_w1, inner.reshape(examples * numbers, -1), by_w2, by_b2], dim=1)
        return left.flatten(), jacobian

    return evaluate


def _gradient(network: MLP, inputs: Tensor, outputs: Tensor) -> Objective:
    def evaluate(weights: Tensor) -> tuple[float, Tensor]:
        with torch.enable_grad():
            weights = weights.detach().requires_grad_()
            w1, b1, w2, b2 = _split(weights, network)
            loss = 0.5 * (torch.tanh(inputs @ w1.T + b1) @ w2.T + b2 - outputs).square().sum()
            (slope,) = torch.autograd.grad(loss, weights)
        return loss.item(), slope

    return evaluate


def scaled_conjugate_gradient(
    objective: Objective, weights: Tensor, iterations: int = 200, tolerance: float = 1e-8
) -> Tensor:
    """Minimize an objective by conjugate gradients, with steps scaled by the curvature in place of a line search.

    Møller, "A scaled conjugate gradient algorithm for fast supervised learning", Neural Networks 6 (1993). The
    objective maps weights ``(w,)`` to value and gradient ``(w,)``. The search stops when the gradient's norm is below
    the tolerance.
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
