# SPDX-License-Identifier: Apache-2.0
"""Inferers from a pair of images to a displacement field or a rigid transform."""

from __future__ import annotations

from regplugins.inferers.refine import RefineInferer
from regplugins.inferers.rigid import RigidInferer
from regplugins.inferers.valid_tiles import ValidTileInferer
from regplugins.inferers.whole_volume import WholeVolumeInferer
