# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms for the configs, thin over ``regplugins.spatial`` and ``regplugins.data``."""

from __future__ import annotations

from regplugins.transforms.load import LoadPaird, LoadVolumesd
from regplugins.transforms.pair import CarryPaird, MeetPaird, ReturnPaird, initial_of
from regplugins.transforms.register import ApplyRegistrationd, Registerd
from regplugins.transforms.reverse import ReversePaird
from regplugins.transforms.synthesis import SynthesisePaird
from regplugins.transforms.training import (
    LabelChannelsd,
    OntoNetworkGridd,
    RandPatchPaird,
    RandSlicePaird,
    RandWarpPaird,
)

__all__ = [
    "ApplyRegistrationd",
    "CarryPaird",
    "LabelChannelsd",
    "LoadPaird",
    "LoadVolumesd",
    "MeetPaird",
    "OntoNetworkGridd",
    "RandPatchPaird",
    "RandSlicePaird",
    "RandWarpPaird",
    "Registerd",
    "ReturnPaird",
    "ReversePaird",
    "SynthesisePaird",
    "initial_of",
]
