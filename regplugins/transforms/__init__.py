# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms of pairs and training images."""

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
from regplugins.transforms.intensity import ClipCTd, ScalePercentilesd
from regplugins.transforms.load import LoadPaird, LoadVolumesd
from regplugins.transforms.modality import MODALITIES, ModalityClassifier, OrderModalitiesd
from regplugins.transforms.preset import ChoosePresetd
from regplugins.transforms.registerd import ApplyRegistrationd, Registerd
from regplugins.transforms.resample import ResamplePaird, pair_initial_transform
from regplugins.transforms.save import SavePaird
from regplugins.transforms.swap import SwapPaird
from regplugins.transforms.synthesis import SynthesizePaird
from regplugins.transforms.volumes import AverageVolumed, LabelChannelsd, ResampleToGridd
