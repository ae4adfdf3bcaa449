# SPDX-License-Identifier: Apache-2.0
"""Dictionary transform that chooses the preset of an optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.transforms import Transform

from regplugins.registration import PresetRegistration


class ChoosePresetd(Transform):
    """Choose the preset of a resampled and scaled pair, as ``PresetRegistration.choose`` does.

    Adds to ``chosen``: ``preset``, the spacing of the grid, the preset's settings, and the statistics that decided.

    Args:
        optimizer: registers the pair.
    """

    def __init__(self, optimizer: PresetRegistration) -> None:
        self.optimizer = optimizer

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        pair = dict(data)
        preset, statistics = self.optimizer.choose(pair["pair"], (pair["moving"], pair["fixed"]), pair["masks"])
        spacing = pair["grid"].spacing.tolist()
        settings = {"spacing": spacing, **self.optimizer.settings(preset, spacing)}
        pair["chosen"] = pair.get("chosen", {}) | {"preset": preset, **statistics, **settings}
        return pair
