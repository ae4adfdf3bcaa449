# SPDX-License-Identifier: Apache-2.0
"""Objective over three resolutions in closed cases."""

import pytest
import torch
from torch import Tensor, nn

from regplugins.losses import MultiResolutionLoss, TotalVariationLoss, WeaklySupervisedLoss
from regplugins.spatial import identity_grid


class MeanOf(nn.Module):
    """Mean difference in place of a similarity."""

    def forward(self, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        weight = torch.ones_like(fixed) if mask is None else mask
        return ((warped - fixed) * weight).sum() / weight.sum()


def ramp(*shape: int) -> Tensor:
    """Image of the indices along its first axis."""
    return identity_grid(list(shape))[:1][None]


def test_scales_are_weighed_as_in_the_paper():
    moving, fixed = torch.full((1, 1, 16, 16), 3.0), torch.ones(1, 1, 16, 16)
    fields = [torch.zeros(1, 2, 16 // step, 16 // step) for step in (1, 2, 4)]
    loss = MultiResolutionLoss(MeanOf(), TotalVariationLoss(), regularization_weight=5.0)
    # Moving less fixed is 2 at every scale, and the fields are flat.
    torch.testing.assert_close(loss(fields, {"moving": moving, "fixed": fixed}), torch.tensor(2 * (1 + 0.6 + 0.3)))


def test_regularization_counts_at_each_scale():
    image = torch.ones(1, 1, 16, 16)
    # Each field grows by one voxel a voxel: total variation 1 but for the last of n rows, which has no next one.
    fields = [
        ramp(16 // step, 16 // step).repeat(1, 2, 1, 1) * torch.tensor([1.0, 0]).view(1, 2, 1, 1) for step in (1, 2, 4)
    ]
    regularization = TotalVariationLoss()
    loss = MultiResolutionLoss(MeanOf(), regularization, regularization_weight=0.5)
    expected = sum(w * 0.5 * float(regularization(f)) for w, f in zip((1, 0.6, 0.3), fields, strict=True))
    assert float(loss(fields, {"moving": image, "fixed": image})) == pytest.approx(expected)
    assert expected > 0.5


def test_masked_voxels_do_not_count():
    moving, fixed, mask = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    moving[..., 4:] = 9
    mask[..., 4:] = 0
    loss = MultiResolutionLoss(MeanOf(), TotalVariationLoss(), 0.0)
    field = [torch.zeros(1, 2, 8, 8)]
    assert float(loss(field, {"moving": moving, "fixed": fixed, "mask": mask})) == pytest.approx(0, abs=1e-5)
    assert float(loss(field, {"moving": moving, "fixed": fixed})) == pytest.approx(4)


def test_more_fields_than_weights_is_an_error():
    loss = MultiResolutionLoss(MeanOf(), TotalVariationLoss(), 0.0, scale_weights=(1.0,))
    image = torch.ones(1, 1, 8, 8)
    with pytest.raises(ValueError, match="2 fields but only 1 scale"):
        loss([torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 4, 4)], {"moving": image, "fixed": image})


class TestWeakSupervision:
    def target(self, shift: int) -> dict[str, Tensor]:
        image, label = torch.rand(1, 1, 12, 12), torch.zeros(1, 2, 12, 12)
        label[:, 0, 2:6, 2:6] = 1
        label[:, 1, 6:9, 6:9] = 1
        return {"moving": image, "fixed": image, "moving_label": torch.roll(label, shift, 2), "fixed_label": label}

    def value(self, target: dict[str, Tensor], ddf: Tensor, weight: float = 1.0) -> float:
        image_loss = MultiResolutionLoss(MeanOf(), TotalVariationLoss(), 0.0)
        return float(WeaklySupervisedLoss(image_loss, weight)([ddf], target)) - float(image_loss([ddf], target))

    def test_perfect_and_no_overlap(self):
        still = torch.zeros(1, 2, 12, 12)
        assert self.value(self.target(0), still) == pytest.approx(0, abs=1e-4)
        # Shifted by 2 of 4 and of 3 rows: Dice 1/2 and 1/3.
        assert self.value(self.target(2), still) == pytest.approx(1 - (1 / 2 + 1 / 3) / 2, abs=1e-4)
        assert self.value(self.target(2), still, weight=3.0) == pytest.approx(3 * (1 - 5 / 12), abs=1e-4)

    def test_field_that_brings_labels_together(self):
        ddf = torch.zeros(1, 2, 12, 12)
        ddf[:, 0] = 2
        assert self.value(self.target(2), ddf) == pytest.approx(0, abs=1e-4)
