# SPDX-License-Identifier: Apache-2.0
"""Distance from known warps in closed cases."""

import pytest
import torch
from torch import Tensor, nn

from regplugins.losses import KnownWarpLoss

FIELD = torch.zeros(2, 2, 6, 7)
AWAY = FIELD + torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)


class MeanSquare(nn.Module):
    """Mean square of the displacement, in place of an objective on images."""

    def forward(self, ddf: Tensor, target: dict[str, Tensor]) -> Tensor:
        assert len(ddf) == len(target["fixed"])
        return ddf.square().mean()


LOSS = KnownWarpLoss(MeanSquare())


def a_target(truth: Tensor) -> dict[str, Tensor]:
    images = {key: torch.ones(2, 1, 6, 7) for key in ("moving", "fixed", "fixed_paired")}
    return {**images, "truth": truth, "kind": torch.tensor([1, 2])}


def test_square_of_the_difference_without_the_objective():
    assert float(LOSS(AWAY, a_target(FIELD))) == pytest.approx(5**2)
    assert float(LOSS(AWAY, a_target(AWAY))) == 0


def test_each_pair_counts_alike_however_small_its_foreground():
    target = a_target(torch.stack([FIELD[0], AWAY[1]]))
    target["fixed"][0, ..., 1:] = 0
    assert float(LOSS(AWAY, target)) == pytest.approx(5**2 / 2)


@pytest.mark.parametrize("name", ["fixed", "fixed_paired"])
def test_background_of_either_image_does_not_count(name):
    target = a_target(torch.cat([FIELD[..., :3], AWAY[..., 3:]], dim=-1))
    assert float(LOSS(AWAY, target)) == pytest.approx(5**2 * 3 / 7)
    target[name][..., 5:] = 0
    assert float(LOSS(AWAY, target)) == pytest.approx(5**2 * 3 / 5)
    target[name] = 0 * target[name]
    assert float(LOSS(AWAY, target)) == 0


def test_the_objective_is_of_the_pairs_of_unknown_warp_alone():
    unknown = torch.full_like(FIELD, torch.nan)
    alone = 5**2 / 2
    assert float(LOSS(AWAY, a_target(unknown))) == pytest.approx(alone)
    truth = torch.stack([FIELD[0], unknown[0]])
    assert float(LOSS(AWAY, a_target(truth))) == pytest.approx((5**2 + alone) / 2)
    target = a_target(FIELD)
    del target["truth"]
    assert float(LOSS(AWAY, target)) == pytest.approx(alone)


def test_foreground_is_that_of_the_fixed_image_alone_without_a_paired_one():
    target = a_target(torch.cat([FIELD[..., :3], AWAY[..., 3:]], dim=-1))
    del target["fixed_paired"]
    target["fixed"][..., 5:] = 0
    assert float(LOSS(AWAY, target)) == pytest.approx(5**2 * 3 / 5)


def test_weights_of_the_branches_and_of_the_objective():
    """Fields that are 5, 10 and 15 voxels away, in a pair of known warp; the objective gets the other pair's."""

    class First(nn.Module):
        def forward(self, fields: list[Tensor], target: dict[str, Tensor]) -> Tensor:
            assert [len(field) for field in fields] == [1, 1, 1]
            return fields[0].square().mean()

    loss = KnownWarpLoss(First(), objective_weight=4.0, branch_weight=0.25)
    truth = torch.stack([FIELD[0], torch.full_like(FIELD[0], torch.nan)])
    expected = (5**2 + 0.25 * (10**2 + 15**2) + 4 * 5**2 / 2) / 2
    assert float(loss([AWAY, 2 * AWAY, 3 * AWAY], a_target(truth))) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["objective_weight", "branch_weight"])
def test_a_negative_weight_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}.*-1"):
        KnownWarpLoss(MeanSquare(), **{name: -1.0})


def test_gradient_is_twice_the_difference_over_the_number_of_voxels():
    field = AWAY.clone().requires_grad_()
    LOSS(field, a_target(FIELD)).backward()
    torch.testing.assert_close(field.grad, 2 * AWAY / (2 * 6 * 7))
