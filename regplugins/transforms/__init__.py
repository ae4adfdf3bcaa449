# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms for the configs, thin over ``regplugins.spatial`` and ``regplugins.data``."""

from __future__ import annotations

from regplugins.transforms.apply import ApplyDDFPaird, ApplyRigidPaird, ApplyTransformPaird
from regplugins.transforms.augment import (
    RandFieldOfViewd,
    RandIntensitiesd,
    RandMotionPaird,
    RandPatchPaird,
    RandSlicePaird,
    RandTissuesd,
    RandWarpPaird,
)
from regplugins.transforms.evaluate import EvaluatePaird
from regplugins.transforms.load import LoadPaird, LoadVolumesd
from regplugins.transforms.modality import (
    MODALITIES,
    ModalityClassifier,
    OrderModalitiesd,
)
from regplugins.transforms.registerd import ApplyRegistrationd, Registerd
from regplugins.transforms.resample import ResamplePaird, ScalePercentilesd, initial_of
from regplugins.transforms.save import SavePaird
from regplugins.transforms.swap import SwapPaird
from regplugins.transforms.synthesis import SynthesizePaird
from regplugins.transforms.volumes import AverageVolumed, LabelChannelsd, ResampleToGridd

__all__ = [
    "MODALITIES",
    "ApplyDDFPaird",
    "ApplyRegistrationd",
    "ApplyRigidPaird",
    "ApplyTransformPaird",
    "AverageVolumed",
    "EvaluatePaird",
    "LabelChannelsd",
    "LoadPaird",
    "LoadVolumesd",
    "ModalityClassifier",
    "OrderModalitiesd",
    "RandFieldOfViewd",
    "RandIntensitiesd",
    "RandMotionPaird",
    "RandPatchPaird",
    "RandSlicePaird",
    "RandTissuesd",
    "RandWarpPaird",
    "Registerd",
    "ResamplePaird",
    "ResampleToGridd",
    "SavePaird",
    "ScalePercentilesd",
    "SwapPaird",
    "SynthesizePaird",
    "initial_of",
]
