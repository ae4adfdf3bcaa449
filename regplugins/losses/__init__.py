# SPDX-License-Identifier: Apache-2.0
"""Losses of registration: image similarity, regularization of the displacement field, and objectives of papers."""

from regplugins.losses.dual_modality import DualModalityLoss
from regplugins.losses.fire import FireLoss
from regplugins.losses.known_warp import KnownWarpLoss
from regplugins.losses.mind import MIND, MINDLoss
from regplugins.losses.ncc import LocalNCCLoss, NCCLoss
from regplugins.losses.objectives import (
    DualBranchLoss,
    MotionLoss,
    MultiResolutionLoss,
    PairLoss,
    WeaklySupervisedLoss,
    masked_similarity,
)
from regplugins.losses.regularization import (
    MagnitudeLoss,
    SquaredGradientLoss,
    SquaredLaplacianLoss,
    TotalVariationLoss,
)
