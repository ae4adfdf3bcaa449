# SPDX-License-Identifier: Apache-2.0
"""Error of rigid parameters in a closed case."""

import pytest
import torch

from regplugins.losses import MotionLoss


def test_half_the_mean_square():
    parameters = torch.tensor([[1.0, 0, 0, 2, 0, 0], [0, 0, 0, 0, 0, 3]])
    loss = MotionLoss()(parameters, {"motion": torch.zeros(2, 6)})
    assert loss.item() == pytest.approx((1 + 4 + 9) / 24)
