# SPDX-License-Identifier: Apache-2.0
"""Losses of registration: image similarity, regularization of the displacement field, and objectives of papers."""

from __future__ import annotations

from regplugins.losses.dual_branch import DualBranchLoss
from regplugins.losses.dual_modality import DualModalityLoss
from regplugins.losses.fire import FireLoss
from regplugins.losses.mind import MIND, MINDLoss
from regplugins.losses.motion import MotionLoss
from regplugins.losses.multiresolution import MultiResolutionLoss
from regplugins.losses.ncc import LocalNCCLoss, NCCLoss
from regplugins.losses.pair import PairLoss, masked_similarity
from regplugins.losses.regularization import (
    MagnitudeLoss,
    SquaredGradientLoss,
    SquaredLaplacianLoss,
    TotalVariationLoss,
)
from regplugins.losses.weak import WeaklySupervisedLoss
