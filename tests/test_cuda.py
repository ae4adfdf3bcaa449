# SPDX-License-Identifier: Apache-2.0
"""GPU and CPU compute the same."""

import pytest
import torch
from torch import Tensor, nn

from regplugins.losses import LocalNCCLoss, MINDLoss, MultiResolutionLoss, NCCLoss
from regplugins.registration import (
    AffineInitializer,
    AffineRegistration,
    BSplineField,
    CompositiveField,
    ConvexInitializer,
    DeformableRegistration,
    GreedyField,
    Parametrization,
    StationaryVelocityField,
)
from regplugins.spatial import compose_ddf, invert_ddf, jacobian_determinant, warp
from tests.bundles.cases import TRAINED, TrainedCase
from tests.registration.pairs import OBJECTIVE, warped_pair

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

SHAPE = (24, 28, 20)


@pytest.fixture(autouse=True)
def as_precise_as_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TensorFloat-32, which has three digits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_networks(case: TrainedCase):
    torch.manual_seed(0)
    network = case.network().eval()
    for parameter in network.parameters():  # so that the last layer, too, gives something
        nn.init.normal_(parameter, std=0.05)
    pair = torch.rand(1, 2, *case.export_shape)
    with torch.no_grad():
        expected = network(pair)
        found = network.cuda()(pair.cuda())
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3 * float(expected.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("loss", [NCCLoss(), LocalNCCLoss(5), LocalNCCLoss(5, "gaussian"), MINDLoss()], ids=repr)
def test_losses_and_their_gradients(loss: nn.Module):
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        warped, fixed = (torch.rand(1, 1, *SHAPE).to(device).requires_grad_() for _ in range(2))
        value = loss.to(device)(warped, fixed)
        results.append([value.cpu(), *(part.cpu() for part in torch.autograd.grad(value, [warped, fixed]))])
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-3)


def test_fields():
    pair, truth = warped_pair(*SHAPE)

    def all_of(pair: Tensor, ddf: Tensor) -> list[Tensor]:
        moved = [warp(pair[:, :1], ddf), warp(pair[:, :1], ddf, "nearest"), compose_ddf(ddf, ddf), invert_ddf(ddf)[0]]
        return [*moved, jacobian_determinant(ddf)]

    for found, expected in zip(all_of(pair.cuda(), truth.cuda()), all_of(pair, truth), strict=True):
        torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "model", [CompositiveField(), GreedyField(), StationaryVelocityField(), BSplineField()], ids=repr
)
def test_optimization(model: Parametrization):
    """Rounding decides where Adam goes: the truth is found as well."""
    pair, truth = warped_pair(*SHAPE)
    optimizer = DeformableRegistration(OBJECTIVE, [(2.0, 20), (1.0, 20)], parametrization=model)
    errors = [(optimizer(pair.to(device)).cpu() - truth).norm(dim=1).mean() for device in ("cpu", "cuda")]
    assert errors[1] < 1.1 * errors[0] + 0.02


def test_starts():
    pair, _ = warped_pair(48, 56, 40)
    linear = AffineRegistration(LocalNCCLoss(5), "affine", [(2.0, 10)])
    torch.testing.assert_close(linear(pair.cuda()).cpu(), linear(pair), atol=0.02, rtol=0)
    for first in (ConvexInitializer(8.0, 2.0), AffineInitializer(linear)):
        optimizer = DeformableRegistration(OBJECTIVE, [(2.0, 1)], initializer=first)
        found, expected = optimizer(pair.cuda()).cpu(), optimizer(pair)
        assert (found - expected).norm(dim=1).mean() < 0.1


def test_an_objective_of_training():
    pair, truth = warped_pair(*SHAPE)
    target = {"moving": pair[:, :1], "fixed": pair[:, 1:]}
    assert isinstance(OBJECTIVE, MultiResolutionLoss)
    expected = OBJECTIVE([truth], target)
    found = OBJECTIVE.cuda()([truth.cuda()], {key: image.cuda() for key, image in target.items()})
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-3)
    OBJECTIVE.cpu()
