# SPDX-License-Identifier: Apache-2.0
"""Fields of several passes with the same weights, for training: closed forms, and gradients through all passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from regplugins.engines import FieldsModule
from regplugins.inferers import WholeVolumeInferer
from regplugins.losses import FireLoss, MultiResolutionLoss, SquaredGradientLoss
from regplugins.networks import (
    CostVolumeUNet,
    Fire,
    GatedCostVolumeUNet,
    GatedDualBranch,
    MultiResolutionFCN,
    ValidUNet,
    bidirectional,
)
from regplugins.networks.base import RegistrationNetwork
from regplugins.spatial import compose_ddf, subsample_ddf, warp
from tests.networks.test_fire import lively as lively_fire
from tests.networks.test_multires_fcn import lively as lively_fcn


class Constant(RegistrationNetwork):
    """One translation, on grids of full and half resolution."""

    def fields(self, pair: Tensor) -> list[Tensor]:
        shift = torch.tensor([0.5, -1.0]).view(1, 2, 1, 1)
        return [(shift / step).expand(1, 2, *(size // step for size in pair.shape[2:])) for step in (1, 2)]


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_a_constant_translation_adds_up_at_every_resolution(passes):
    fields = FieldsModule(Constant(2, 2), passes=passes)(torch.rand(1, 2, 8, 12))
    for field, step in zip(fields, (1, 2), strict=True):
        expected = torch.tensor([0.5, -1.0]).view(1, 2, 1, 1) * passes / step
        torch.testing.assert_close(field, expected.expand_as(field))


@pytest.mark.parametrize(
    "network",
    [
        lively_fcn(MultiResolutionFCN(2, channels=(4, 4, 4, 4, 4, 4))),
        GatedDualBranch(2, channels=(4, 4, 4, 4, 4)).eval(),
        CostVolumeUNet(2, channels=(4, 4, 4)).eval(),
        GatedCostVolumeUNet(2, channels=(4, 4, 4)).eval(),
    ],
    ids=lambda network: type(network).__name__,
)
def test_the_first_field_is_the_inferers(network):
    """Training and inference compose in the same way."""
    pair = torch.rand(1, 2, 16, 32)
    fields = network.fields_of_passes(pair, 3)
    first = fields if isinstance(fields, Tensor) else fields[0]
    torch.testing.assert_close(first, WholeVolumeInferer(passes=3)(pair, network), atol=1e-4, rtol=1e-4)


def test_other_fields_are_residuals_after_the_first_one():
    """The gradient branch sees the gradients of the warped image."""
    torch.manual_seed(0)
    network = GatedDualBranch(2, channels=(4, 4, 4, 4, 4)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pair = torch.rand(1, 2, 16, 16)
    with torch.no_grad():
        before = network(pair)
        residuals = network.fields(torch.cat([warp(pair[:, :1], before), pair[:, 1:]], dim=1))
        for found, residual in zip(network.fields_of_passes(pair, 2), residuals, strict=True):
            torch.testing.assert_close(found, compose_ddf(before, residual))
    assert before.abs().max() > 0.1


def test_fire_composes_both_directions():
    network = lively_fire(Fire(2, channels=4, blocks=1))
    pair = torch.rand(2, 2, 16, 24)
    with torch.no_grad():
        fields = network.fields_of_passes(pair, 3)
    expected = WholeVolumeInferer(passes=3)(pair, bidirectional(network))
    torch.testing.assert_close(torch.cat([fields["ddf_ab"], fields["ddf_ba"]], 1), expected, atol=1e-4, rtol=1e-4)
    for own, other in (("a", "b"), ("b", "a")):
        way = f"{own}{other}"
        torch.testing.assert_close(fields[f"warped_{own}"], warp(fields[f"image_{own}"], fields[f"ddf_{way}"]))
        cycle = compose_ddf(fields[f"ddf_{way}"], fields[f"ddf_{other}{own}"])
        torch.testing.assert_close(fields[f"cycled_{own}"], warp(fields[f"image_{own}"], cycle))
        torch.testing.assert_close(fields[f"nonrigid_{way}"], subsample_ddf(fields[f"ddf_{way}"], 4))


class Tiny(RegistrationNetwork):
    """Two convolutions in any precision; fields of full and half resolution."""

    def __init__(self, spatial_dims: int, stride: int) -> None:
        super().__init__(spatial_dims, stride)
        self.first = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.second = torch.nn.Conv2d(4, 2, 3, padding=1)

    def fields(self, pair: Tensor) -> list[Tensor]:
        ddf = self.second(self.first(4 * pair).tanh())
        return [ddf, subsample_ddf(ddf, 2).sin()]

    def forward(self, pair: Tensor) -> Tensor:
        return self.fields(pair)[0]


def difference_quotient(loss: Callable[[], Tensor], parameters: list[Tensor], step: float) -> tuple[float, float]:
    """Derivative of a loss along its gradient, by autograd and by a central difference."""
    gradients = torch.autograd.grad(loss(), parameters)
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    values = []
    with torch.no_grad():
        for sign in (1, -2, 1):  # to one side, to the other, and back
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter += sign * step * gradient / norm
            values.append(float(loss()))
    return float(norm), (values[0] - values[1]) / (2 * step)


def test_gradients_are_those_of_all_passes():
    """Finite differences in float64; a gradient of the last pass alone is another."""
    torch.manual_seed(0)
    network = Tiny(2, 1).double()
    pair = torch.nn.functional.avg_pool2d(torch.rand(1, 2, 18, 22, dtype=torch.float64), 3, stride=1)
    target = {"moving": pair[:, :1], "fixed": pair[:, 1:]}

    def similarity(warped: Tensor, fixed: Tensor, mask: None) -> Tensor:
        return (warped - fixed).square().mean()

    objective = MultiResolutionLoss(similarity, SquaredGradientLoss(), 0.1)  # type: ignore[arg-type]
    parameters = list(network.parameters())
    exact, quotient = difference_quotient(
        lambda: objective(network.fields_of_passes(pair, 2), target), parameters, 1e-6
    )
    assert exact == pytest.approx(quotient, rel=1e-4)
    before = network(pair).detach()
    residuals = network.fields(torch.cat([warp(pair[:, :1], before), pair[:, 1:]], dim=1))
    last = [compose_ddf(subsample_ddf(before, step), r) for step, r in zip((1, 2), residuals, strict=True)]
    alone = torch.autograd.grad(objective(last, target), parameters)
    assert float(torch.stack([g.square().sum() for g in alone]).sum().sqrt()) != pytest.approx(exact, rel=0.05)


def test_fires_objective_reaches_every_parameter_through_both_passes():
    """Finite differences in float32, the precision of the keypoints."""
    network = lively_fire(Fire(2, channels=4, blocks=1))
    pair = torch.nn.functional.avg_pool2d(torch.rand(1, 2, 18, 26), 3, stride=1)
    objective = FireLoss()

    def loss() -> Tensor:
        return objective(network.fields_of_passes(pair, 2), {})

    parameters = list(network.parameters())
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss(), parameters))
    exact, quotient = difference_quotient(loss, parameters, 2e-5)
    assert exact == pytest.approx(quotient, rel=0.05)


def test_a_field_that_is_smaller_than_the_pair():
    network = ValidUNet(2, channels=(4, 4, 4))
    with pytest.raises(
        ValueError, match=r"several passes need a field of the images' size \[48, 44\], got one of \[8,"
    ):
        network.fields_of_passes(torch.rand(1, 2, 48, 44), 2)
    assert network.fields_of_passes(torch.rand(1, 2, 48, 44), 1).shape == (1, 2, 8, 4)
