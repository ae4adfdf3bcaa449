# SPDX-License-Identifier: Apache-2.0
"""A network with one hidden layer, trained on features (Islam et al. 2021, "Registration of multi-modal images")."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from regplugins.baselines.least_squares import Residuals, least_squares, maximize_evidence
from regplugins.baselines.scaled_conjugate_gradient import Objective, scaled_conjugate_gradient
from regplugins.checks import choice
from regplugins.networks import MLP


def train_mlp(
    features: Tensor,
    targets: Tensor,
    method: str = "bayesian",
    hidden: int = 10,
    iterations: int = 200,
    seed: int = 0,
) -> MLP:
    """Train on all examples at once.

    Args:
        features: ``(examples, features)``.
        targets: ``(examples, outputs)``.
        method: "bayesian" (regularized by what the data tell, ``maximize_evidence``), "levenberg_marquardt" or
            "scaled_conjugate_gradient" (neither regularized).
        hidden: neurons of the hidden layer.
        iterations: at most so many steps.
        seed: of the weights to start from.

    Returns:
        The network, float32.

    Raises:
        ValueError: unknown method; examples that are not finite, too few (less than two), or not as many of the one as
            of the other.
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
    """Small weights: tanh must not be saturated, or nothing is learned."""
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
    """What the network has too much, and its derivative by the weights in their order, without a loop over examples."""

    def evaluate(weights: Tensor) -> tuple[Tensor, Tensor]:
        w1, b1, w2, b2 = _split(weights, network)
        activity = torch.tanh(inputs @ w1.T + b1)
        left = activity @ w2.T + b2 - outputs
        examples, numbers = outputs.shape
        # By the hidden layer's sums: (examples, numbers, hidden).
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
