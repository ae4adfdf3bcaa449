# SPDX-License-Identifier: Apache-2.0
"""Objective of one pair in closed cases."""

import pytest
import torch
from monai.losses import GlobalMutualInformationLoss, LocalNormalizedCrossCorrelationLoss, MaskedLoss
from torch import nn

from regplugins.losses import LocalNCCLoss, MINDLoss, PairLoss, SquaredGradientLoss
from regplugins.spatial import warp


@pytest.fixture
def pair() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"moving": torch.rand(1, 1, 16, 18), "fixed": torch.rand(1, 1, 16, 18)}


def test_sum_of_its_terms(pair):
    ddf = torch.randn(1, 2, 16, 18)
    mask = (torch.rand(1, 1, 16, 18) > 0.3).float()
    ncc, mind, smooth = LocalNCCLoss(5), MINDLoss(), SquaredGradientLoss()
    loss = PairLoss([ncc, mind], smooth, 0.3, weights=[2.0, 0.5])
    warped = warp(pair["moving"], ddf)
    for more, share in (({}, 1.0), ({"mask": mask}, mask.mean())):
        similarity = 2 * ncc(warped, pair["fixed"], **more) + 0.5 * mind(warped, pair["fixed"], **more)
        torch.testing.assert_close(loss([ddf], pair | more), share * similarity + 0.3 * smooth(ddf))
    torch.testing.assert_close(PairLoss(ncc, smooth, 0.0)([ddf], pair), ncc(warped, pair["fixed"]))


def test_a_voxel_weighs_the_same_whatever_else_is_masked(pair):
    """Losses under two complementary masks sum to the loss without a mask."""
    ddf = torch.randn(1, 2, 16, 18)
    mask = (torch.rand(1, 1, 16, 18) > 0.8).float()
    loss = PairLoss([LocalNCCLoss(5), MINDLoss()], SquaredGradientLoss(), 0.0)
    parts = [loss([ddf], pair | {"mask": part}) for part in (mask, 1 - mask)]
    torch.testing.assert_close(sum(parts), loss([ddf], pair))


@pytest.mark.parametrize("similarity", [GlobalMutualInformationLoss(), LocalNormalizedCrossCorrelationLoss(2)])
def test_monais_losses(pair, similarity):
    still = torch.zeros(1, 2, 16, 18)
    alike = PairLoss(similarity, SquaredGradientLoss(), 1.0)([still], pair | {"moving": pair["fixed"]})
    assert alike < PairLoss(similarity, SquaredGradientLoss(), 1.0)([still], pair)
    mask = torch.ones(1, 1, 16, 18)
    with pytest.raises(ValueError, match=f"{type(similarity).__name__} takes no mask; wrap it in"):
        PairLoss(similarity, SquaredGradientLoss(), 1.0)([still], pair | {"mask": mask})


def test_monais_masked_loss(pair):
    mask = torch.zeros(1, 1, 16, 18)
    mask[..., :8] = 1
    loss = PairLoss(MaskedLoss(nn.MSELoss), SquaredGradientLoss(), 1.0)
    expected = ((pair["moving"] - pair["fixed"]) * mask).square().mean()
    torch.testing.assert_close(loss([torch.zeros(1, 2, 16, 18)], pair | {"mask": mask}), expected)


def test_a_loss_by_its_name_is_none():
    for losses, name in (((MINDLoss(), "TV"), "regularization"), ((["NCC"], SquaredGradientLoss()), "similarity")):
        with pytest.raises(TypeError, match=f"{name} must be a loss, such as regplugins.losses has, got '(TV|NCC)'"):
            PairLoss(*losses, 1.0)


@pytest.mark.parametrize(("similarities", "weights"), [([], None), ([nn.MSELoss()], [1.0, 2.0])])
def test_as_many_weights_as_similarities(similarities, weights):
    with pytest.raises(ValueError, match=r"got \d similarities and \d weights"):
        PairLoss(similarities, SquaredGradientLoss(), 1.0, weights)
