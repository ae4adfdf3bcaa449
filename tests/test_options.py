# SPDX-License-Identifier: Apache-2.0
"""Options that have a wrong value or type are refused by name where they enter, whichever class takes them."""

from collections.abc import Callable
from typing import Any

import pytest
from ignite.engine import Engine

from regplugins.engines import FieldsModule
from regplugins.handlers import EarlyStopping
from regplugins.inferers import RigidInferer, ValidTileInferer, WholeVolumeInferer
from regplugins.losses import (
    DualBranchLoss,
    DualModalityLoss,
    LocalNCCLoss,
    MultiResolutionLoss,
    NCCLoss,
    PairLoss,
    SquaredGradientLoss,
)
from regplugins.networks import MultiResolutionFCN
from regplugins.registration import (
    BSplineField,
    CompositiveField,
    ConvexInitializer,
    DeformableRegistration,
    GreedyField,
    WeightsOptimizer,
)
from regplugins.transforms import ApplyRegistrationd, EvaluatePaird, ModalityClassifier, OrderModalitiesd, SavePaird

CLASSIFIER = ModalityClassifier(None, 4.0, [8, 8, 8])
OBJECTIVE = PairLoss(NCCLoss(), SquaredGradientLoss(), 0.1)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (WholeVolumeInferer, {"passes": 0}),
        (WholeVolumeInferer, {"affine_passes": -1}),
        (WholeVolumeInferer, {"amp": "true"}),
        (WholeVolumeInferer, {"compile": 1}),
        (ValidTileInferer, {"passes": 1.5}),
        (RigidInferer, {"passes": "x"}),
        (lambda **given: EarlyStopping(validator=Engine(lambda *_: None), **given), {"patience": 0}),
        (lambda **given: FieldsModule(MultiResolutionFCN(), **given), {"passes": 0}),
        (lambda **given: WeightsOptimizer(MultiResolutionFCN(), OBJECTIVE, **given), {"iterations": 0}),
        (ConvexInitializer, {"reach": 0}),
        (CompositiveField, {"smoothing": -1}),
        (GreedyField, {"step": 0}),
        (BSplineField, {"distance": 0}),
        (lambda **given: DeformableRegistration(OBJECTIVE, [(1, 5)], **given), {"tolerance": -0.1}),
        (lambda **given: PairLoss(NCCLoss(), SquaredGradientLoss(), **given), {"regularization_weight": -1}),
        (lambda **given: MultiResolutionLoss(NCCLoss(), SquaredGradientLoss(), **given), {"regularization_weight": -1}),
        (lambda **given: DualBranchLoss(NCCLoss(), SquaredGradientLoss(), **given), {"gradient_weight": -1}),
        (lambda **given: DualBranchLoss(NCCLoss(), SquaredGradientLoss(), **given), {"regularization_weight": -1}),
        (
            lambda **given: DualBranchLoss(NCCLoss(), SquaredGradientLoss(), **given),
            {"gradient_regularization_weight": -1},
        ),
        (LocalNCCLoss, {"kernel": "triangular"}),
        (lambda **given: DualModalityLoss(NCCLoss(), **given), {"supervision": "both"}),
        (lambda **given: DualModalityLoss(NCCLoss(), **given), {"similarity_region": "whole"}),
        (lambda **given: DualModalityLoss(NCCLoss(), **given), {"penalty_norm": "l1"}),
        (lambda **given: SavePaird("o", **given), {"field_spacing": 0}),
        (EvaluatePaird, {"warnings": "no"}),
        (EvaluatePaird, {"motion": "no"}),
        (lambda **given: OrderModalitiesd(classifier=CLASSIFIER, **given), {"order": "mr"}),
        (lambda **given: ApplyRegistrationd("image", "fixed", **given), {"mode": "cubic"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_the_message_names_the_option(make: Callable[..., Any], options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b.* (must|got) .*{value}"):
        make(**options)
