# SPDX-License-Identifier: Apache-2.0
"""Distance from known warps in closed cases."""

import pytest
import torch
from torch import Tensor

from regplugins.losses import KnownWarpLoss, MagnitudeLoss, PairLoss

FIELD = torch.zeros(2, 2, 6, 7)
AWAY = FIELD + torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)


def loss(weight: float = 0.5) -> KnownWarpLoss:
    """The objective is 10 times half the mean square of the images' difference, for known images."""
    return KnownWarpLoss(PairLoss(torch.nn.MSELoss(), MagnitudeLoss(), 0.0, [10.0]), weight)


def a_target(truth: Tensor) -> dict[str, Tensor]:
    images = {"moving": torch.ones(2, 1, 6, 7), "fixed": torch.tensor([3.0, 5.0]).view(2, 1, 1, 1).expand(2, 1, 6, 7)}
    return {**images, "truth": truth, "kind": torch.tensor([1, 2])}


def test_length_of_the_difference_without_the_objective():
    for fields in (AWAY, [AWAY, 0 * AWAY]):  # of several fields the first
        assert float(loss()(fields, a_target(FIELD))) == pytest.approx(0.5 * 5)
        assert float(loss()(fields, a_target(AWAY))) == 0


def test_the_objective_is_of_the_pairs_of_unknown_warp_alone():
    """Of the second pair, whose images differ by 4, half counts; of the first, the distance of 5, too."""
    truth = torch.stack([FIELD[0], torch.full_like(FIELD[0], torch.nan)])
    assert float(loss()([AWAY], a_target(truth))) == pytest.approx(0.5 * 5 / 2 + 10 * 4**2 / 2)
    assert float(loss()([AWAY], a_target(torch.full_like(FIELD, torch.nan)))) == pytest.approx(10 * (2**2 + 4**2) / 2)


def test_without_known_warps_it_is_the_objective():
    target = a_target(FIELD)
    del target["truth"]
    assert float(loss()([AWAY], target)) == pytest.approx(10 * (2**2 + 4**2) / 2)


def test_gradient_points_from_the_truth():
    field = AWAY.clone().requires_grad_()
    loss(1.0)([field], a_target(FIELD)).backward()
    torch.testing.assert_close(field.grad, AWAY / 5 / (2 * 6 * 7))


def test_negative_weight():
    with pytest.raises(ValueError, match="weight must not be negative"):
        loss(-1.0)
