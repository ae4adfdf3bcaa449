# SPDX-License-Identifier: Apache-2.0
"""The bundles, and what the tests that all of them must pass need to know of each."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from regplugins.datasets.brain_pairs import STRONG
from regplugins.losses import LocalNCCLoss, MINDLoss
from regplugins.networks import (
    CostVolumeUNet,
    Fire,
    GatedCostVolumeUNet,
    IdentityNetwork,
    MultiResolutionFCN,
    RigidCNN,
)
from tests.bundles.datasets import aligned_limb, brain_sequences, labeled_warps, moved_heads


@dataclass(frozen=True, eq=False, kw_only=True)
class BundleCase:
    """A bundle as its tests see it; two are the same only if they are one object.

    Args:
        name: its folder.
        network: builds the network as ``network_def`` should.
        stride: of the network.
        similarity: of ``report.json``, what registration of the sample raises.
        gain: by how much, at least.
        quick: overrides of ``inference.json`` for tests that are not about how good a result is.
        careful: overrides of ``inference.json`` beside these where a good start must not be lost.
        kept: share of the similarity under a good start that there is afterwards: rigidly there is nothing to add.
    """

    name: str
    network: Callable[[], nn.Module]
    stride: int
    similarity: str
    gain: float
    quick: Mapping[str, Any] = field(default_factory=dict)
    careful: Mapping[str, Any] = field(default_factory=dict)
    kept: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedCase(BundleCase):
    """A bundle with a network that was trained.

    Args:
        write_data: writes a data set that ``train.json`` takes, with two or more pairs to validate and to test on: the
            bundle's folder (for its sample), folder to write to.
        training: overrides of ``train.json`` for quick steps on that data.
        evaluation: overrides of ``evaluate.json`` for two test pairs.
        score: of ``metrics.csv``, without "_before" or "_after".
        better: whether a score is better than another.
        dissimilarity: of a warped and a fixed image ``(B, 1, *spatial)``: what refinement lowers; none: there is no
            ``refine.json``.
        lowered: by how much, at least.
        coarse: factor of a level at which refinement still helps on that data, fast.
        variants: weights beside ``model.pt``, ``model_<name>.pt``, by name: their network's part of ``network_def``.
    """

    write_data: Callable[[Path, Path], None]
    training: Mapping[str, Any]
    score: str
    better: Callable[[float, float], bool]
    dissimilarity: Callable[[Tensor, Tensor], Tensor] | None = None
    lowered: float = 0.0
    coarse: float = 8.0
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def few_steps(self) -> dict[str, Any]:
        """Overrides of ``train.json`` for two steps an epoch."""
        return {"pairs_per_epoch": 4, "batch_size": 2, "val_interval": 1, **self.training}

    @property
    def export_shape(self) -> list[int]:
        """Small sizes that the network takes, not all the same."""
        return [size * max(self.stride, 8) for size in (2, 3, 2)]


HIPPOCAMPUS = TrainedCase(
    name="hippocampus_mr_multires_fcn",
    network=MultiResolutionFCN,
    stride=4,
    write_data=labeled_warps,
    # The sample's label is larger than those that the bundle was trained on.
    training={"network_shape": [44, 52, 48], "val_pairs": 2},
    evaluation={"eval_pairs": 2},
    score="dice_mean",
    better=operator.gt,
    similarity="ncc",
    gain=0.05,
    dissimilarity=LocalNCCLoss(7),
    lowered=0.005,
    variants={"weak": {}},
)

# What the bundles for brains of several sequences, and of limbs, have in common.
_BRAINS: dict[str, Any] = {
    "write_data": brain_sequences,
    # The warps of the data are to be undone by the network alone.
    "evaluation": {"init": "none"},
    "score": "endpoint_error_mean",
    "better": operator.lt,
    "similarity": "mutual_information",
    "gain": 0.02,
    "dissimilarity": MINDLoss("ssc"),
    "lowered": 0.001,
}

_PATCHES = {"spacing": 6.0, "network_shape": [32, 32, 32], "patch_shape": [16, 24, 16], "context": 4}

GATED_GRADIENT = TrainedCase(
    name="brain_mr_gated_gradient",
    network=GatedCostVolumeUNet,
    stride=8,
    training={**_PATCHES, "init": "none"},
    # What refinement lowers is part of its training.
    **(_BRAINS | {"lowered": 0.0}),
)

_COSTS: dict[str, Any] = _BRAINS | {
    "network": CostVolumeUNet,
    "stride": 8,
    "training": {**_PATCHES, "val_pairs": 2},
}

DUAL_SUPERVISION = TrainedCase(name="brain_mr_dual_supervision", **_COSTS)

LIMBS = TrainedCase(name="limb_ct_mr_dual_supervision", coarse=4.0, **(_COSTS | {"write_data": aligned_limb}))

FIRE = TrainedCase(
    name="brain_mr_fire",
    network=partial(Fire, channels=8),
    stride=4,
    variants={
        "unsupervised": {"spatial_dims": 3, "channels": 8},
        "slices": {"spatial_dims": 2, "channels": 16},
        "slices_unsupervised": {"spatial_dims": 2, "channels": 16},
    },
    training={
        "spacing": 6.0,
        "network_shape": [32, 32, 32],
        "moving_sequence": "t2",
        "fixed_sequence": "t1",
        "validation_section": "validation",
        "test_section": "test",
    },
    **(
        _BRAINS
        | {
            "write_data": partial(brain_sequences, warp=STRONG),
            "evaluation": {"init": "none", "test_section": "test"},
        }
    ),
)

HEADS = TrainedCase(
    name="head_ct_mr_rigid",
    network=RigidCNN,
    stride=1,
    write_data=moved_heads,
    training={"fixed_sequences": ["t1"], "validation_section": "validation_15"},
    score="endpoint_error_mean",
    better=operator.lt,
    similarity="mutual_information",
    gain=0.02,
    # The exact answer would hide what the network's is; but where a start is good, the network alone may lose it.
    quick={"refine_rigid": False},
    careful={"refine_rigid": True},
    kept=0.95,
)

ANY_MODALITY = BundleCase(
    name="any_modality_optimization",
    network=IdentityNetwork,
    stride=1,
    similarity="mutual_information",
    gain=0.08,
    quick={"levels": [[8.0, 10], [4.0, 5]]},
)

TRAINED = (HIPPOCAMPUS, GATED_GRADIENT, DUAL_SUPERVISION, LIMBS, FIRE, HEADS)
REFINED = tuple(case for case in TRAINED if case.dissimilarity is not None)
CASES = (*TRAINED, ANY_MODALITY)
