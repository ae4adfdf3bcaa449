# SPDX-License-Identifier: Apache-2.0
"""Trainers of the MLP against SciPy, a linear model with a known posterior, and PyTorch's derivatives."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares as scipy_least_squares
from torch import Tensor

from regplugins.baselines import maximize_evidence, train_mlp
from regplugins.baselines.bayesian_mlp import _residuals, _start, scaled_conjugate_gradient
from regplugins.baselines.least_squares import least_squares
from regplugins.networks import MLP

METHODS = ("bayesian", "levenberg_marquardt", "scaled_conjugate_gradient")


def line(examples: int, noise: float, weights: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """A linear problem with weights drawn from a normal distribution: design, data, truth."""
    random = torch.Generator().manual_seed(0)
    design = torch.randn(examples, weights, generator=random, dtype=torch.float64)
    truth = 2.0 * torch.randn(weights, generator=random, dtype=torch.float64)
    data = design @ truth + noise * torch.randn(examples, generator=random, dtype=torch.float64)
    return design, data, truth


def smooth(examples: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two numbers that hang on two of three features."""
    random = torch.Generator().manual_seed(seed)
    features = torch.rand(examples, 3, generator=random) * 4 - 2
    truth = torch.stack([torch.sin(features[:, 0]) * 30, features[:, 1] ** 2], dim=1)
    return features, truth + noise * torch.tensor([30.0, 1.0]) * torch.randn(truth.shape, generator=random)


class TestEvidence:
    def test_of_a_linear_model(self):
        """At the maximum MacKay's conditions hold, and the weights are the mean of the posterior: ridge regression."""
        design, data, truth = line(400, noise=0.5)
        weights, evidence = maximize_evidence(lambda w: (design @ w - data, design), torch.zeros(6))
        ridge = torch.linalg.solve(
            design.T @ design + evidence.alpha / evidence.beta * torch.eye(6, dtype=torch.float64), design.T @ data
        )
        torch.testing.assert_close(weights, ridge, rtol=1e-5, atol=1e-6)
        left = (design @ weights - data).square().sum().item()
        covariance = torch.linalg.inv(
            evidence.beta * design.T @ design + evidence.alpha * torch.eye(6, dtype=torch.float64)
        )
        assert evidence.effective == pytest.approx(6 - evidence.alpha * covariance.trace().item(), rel=1e-6)
        assert evidence.alpha == pytest.approx(evidence.effective / weights.square().sum().item(), rel=1e-3)
        assert evidence.beta == pytest.approx((400 - evidence.effective) / left, rel=1e-3)
        assert evidence.beta**-0.5 == pytest.approx(0.5, rel=0.1)  # the noise that was put in
        torch.testing.assert_close(weights, truth, rtol=0, atol=4 * 0.5 / 20)

    def test_weights_that_say_nothing_are_kept_small(self):
        """Data without noise determine all weights, data that are noise alone next to none."""
        design, data, _ = line(60, noise=1e-3)
        noise = torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        _, told = maximize_evidence(lambda w: (design @ w - data, design), torch.ones(6))
        weights, untold = maximize_evidence(lambda w: (design @ w - noise, design), torch.ones(6))
        assert told.effective > 5.99
        assert untold.effective < 3
        assert weights.norm() < torch.linalg.lstsq(design, noise).solution.norm()

    def test_not_finite(self):
        with pytest.raises(ValueError, match="not finite"):
            maximize_evidence(lambda w: (w / 0, torch.eye(2)), torch.ones(2))


def test_levenberg_marquardt_is_scipys():
    """The example of Rosenbrock, and an exponential."""

    def rosenbrock(w: Tensor) -> tuple[Tensor, Tensor]:
        left = torch.stack([10 * (w[1] - w[0] ** 2), 1 - w[0]])
        return left, torch.stack(
            [torch.stack([-20 * w[0], torch.tensor(10.0).double()]), torch.tensor([-1.0, 0.0]).double()]
        )

    torch.testing.assert_close(least_squares(rosenbrock, torch.tensor([-1.2, 1.0])), torch.ones(2).double())

    times = torch.linspace(0, 3, 30, dtype=torch.float64)
    data = 2.5 * torch.exp(-1.3 * times) + 0.05 * torch.sin(40 * times)

    def decay(w: Tensor) -> tuple[Tensor, Tensor]:
        shape = torch.exp(-w[1] * times)
        return w[0] * shape - data, torch.stack([shape, -w[0] * times * shape], dim=1)

    theirs = scipy_least_squares(
        lambda w: decay(torch.from_numpy(w))[0].numpy(),
        [1.0, 1.0],
        jac=lambda w: decay(torch.from_numpy(w))[1].numpy(),
        method="lm",
    )
    np.testing.assert_allclose(least_squares(decay, torch.ones(2)), theirs.x, rtol=1e-4)


def test_scaled_conjugate_gradient_ends_where_a_quadratic_is_least():
    """In as many steps as it has dimensions, but for rounding."""
    random = torch.Generator().manual_seed(0)
    root = torch.randn(8, 8, generator=random, dtype=torch.float64)
    matrix, target = root @ root.T + torch.eye(8).double(), torch.randn(8, generator=random, dtype=torch.float64)

    def objective(w: Tensor) -> tuple[float, Tensor]:
        return (0.5 * w @ matrix @ w - target @ w).item(), matrix @ w - target

    found = scaled_conjugate_gradient(objective, torch.zeros(8).double(), iterations=40)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target), rtol=1e-5, atol=1e-6)


def test_jacobian_is_that_of_pytorch():
    network = MLP(3, 2, hidden=4).double()
    features, targets = smooth(5, 0.0)
    residuals = _residuals(network, features.double(), targets.double())
    weights = _start(network, 0) + 0.1
    left, jacobian = residuals(weights)
    expected = torch.func.jacrev(lambda w: residuals(w)[0])(weights)
    torch.testing.assert_close(jacobian, expected)
    torch.nn.utils.vector_to_parameters(weights, network.parameters())
    torch.testing.assert_close(left, (network(features.double()) - targets).flatten())


class TestMLP:
    @pytest.mark.parametrize("method", METHODS)
    def test_learns_what_hangs_on_the_features(self, method):
        network = train_mlp(*smooth(300, 0.0), method=method, iterations=400)
        features, truth = smooth(200, 0.0, seed=1)
        left = (network(features) - truth).square().sum(dim=0) / (truth - truth.mean(dim=0)).square().sum(dim=0)
        assert (1 - left).min() > 0.98  # R²

    def test_regularized_by_what_the_data_tell(self):
        """With few noisy examples it does better on others than what is not regularized, which fits the noise."""
        data = smooth(40, 0.3)
        features, truth = smooth(500, 0.0, seed=1)
        errors = {
            method: ((train_mlp(*data, method=method)(features) - truth) / torch.tensor([30.0, 1.0])).square().mean()
            for method in METHODS
        }
        assert errors["bayesian"] < 0.5 * errors["levenberg_marquardt"]

    def test_numbers_of_any_size_and_a_feature_that_is_constant(self):
        features, targets = smooth(100, 0.0)
        features = torch.cat([1e4 + 1e3 * features, torch.ones(100, 1)], dim=1)
        network = train_mlp(features, 1e-3 * targets)
        assert (network(features) - 1e-3 * targets).abs().max() < 1e-3 * 5

    def test_its_state_is_all_of_it(self):
        trained = train_mlp(*smooth(50, 0.1), hidden=3)
        other = MLP(3, 2, hidden=3)
        other.load_state_dict(trained.state_dict())
        features, _ = smooth(20, 0.0, seed=2)
        assert torch.equal(other(features), trained(features))
        assert torch.equal(train_mlp(*smooth(50, 0.1), hidden=3)(features), trained(features))

    @pytest.mark.parametrize(
        ("features", "targets", "message"),
        [
            (torch.rand(3, 2), torch.rand(4, 2), r"\(3, 2\) and \(4, 2\)"),
            (torch.rand(1, 2), torch.rand(1, 2), "two or more"),
            (torch.full((3, 2), torch.nan), torch.rand(3, 2), "finite"),
        ],
    )
    def test_bad_examples(self, features, targets, message):
        with pytest.raises(ValueError, match=message):
            train_mlp(features, targets)

    def test_unknown_method(self):
        with pytest.raises(ValueError, match="method must be one of"):
            train_mlp(*smooth(5, 0.0), method="adam")
