# SPDX-License-Identifier: Apache-2.0
"""Bring two images roughly together: by their fields of view, their centers of mass, or their mutual information."""

from __future__ import annotations

from regplugins.prealign.centers import align_centers_of_mass, align_fields_of_view, center_of_mass, otsu_threshold
from regplugins.prealign.evolution import register_by_evolution, symmetry_start
from regplugins.prealign.initial import CHOICES, initial_transform
from regplugins.prealign.label_demons import align_labels
from regplugins.prealign.registration import polish, register
from regplugins.prealign.volume import Volume

__all__ = [
    "CHOICES",
    "Volume",
    "align_centers_of_mass",
    "align_fields_of_view",
    "align_labels",
    "center_of_mass",
    "initial_transform",
    "otsu_threshold",
    "polish",
    "register",
    "register_by_evolution",
    "symmetry_start",
]
