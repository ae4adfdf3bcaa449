# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms for the configs, thin over ``regplugins.spatial`` and ``regplugins.data``."""

from __future__ import annotations

from regplugins.transforms.carry import CarryPaird, ReturnPaird, ReturnRigidPaird
from regplugins.transforms.load import LoadPaird, LoadVolumesd
from regplugins.transforms.modality import (
    MODALITIES,
    Identifier,
    OntoModalityGridd,
    OrderPaird,
    RandIntensitiesd,
    RandTissuesd,
)
from regplugins.transforms.pair import MeetPaird, initial_of
from regplugins.transforms.register import ApplyRegistrationd, Registerd
from regplugins.transforms.reverse import ReversePaird
from regplugins.transforms.synthesis import SynthesizePaird
from regplugins.transforms.training import (
    AverageVolumed,
    LabelChannelsd,
    OntoNetworkGridd,
    RandFieldOfViewd,
    RandMotionPaird,
    RandPatchPaird,
    RandSlicePaird,
    RandWarpPaird,
)

__all__ = [
    "MODALITIES",
    "ApplyRegistrationd",
    "AverageVolumed",
    "CarryPaird",
    "Identifier",
    "LabelChannelsd",
    "LoadPaird",
    "LoadVolumesd",
    "MeetPaird",
    "OntoModalityGridd",
    "OntoNetworkGridd",
    "OrderPaird",
    "RandFieldOfViewd",
    "RandIntensitiesd",
    "RandMotionPaird",
    "RandPatchPaird",
    "RandSlicePaird",
    "RandTissuesd",
    "RandWarpPaird",
    "Registerd",
    "ReturnPaird",
    "ReturnRigidPaird",
    "ReversePaird",
    "SynthesizePaird",
    "initial_of",
]
