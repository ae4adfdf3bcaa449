# SPDX-License-Identifier: Apache-2.0
"""Random transforms for training."""

from __future__ import annotations

from regplugins.transforms.augment.field_of_view import RandFieldOfViewd, RandPatchPaird, RandSlicePaird
from regplugins.transforms.augment.intensity import RandIntensitiesd, RandTissuesd
from regplugins.transforms.augment.warp import RandMotionPaird, RandWarpPaird
