# SPDX-License-Identifier: Apache-2.0
"""Presets: settings of a deformable registration for kinds of pairs, and the choice among them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regplugins.checks import choice
from regplugins.losses import LocalNCCLoss, MINDLoss, PairLoss, SquaredGradientLoss, SquaredLaplacianLoss
from regplugins.registration.affine import AffineInitializer, AffineRegistration
from regplugins.registration.convex import ConvexInitializer
from regplugins.registration.deformable import DeformableRegistration
from regplugins.registration.image_pair import REFERENCE_SPACING, min_spacing
from regplugins.registration.modality import is_one_modality, is_photograph, modality_statistics
from regplugins.registration.parametrization import CompositiveField, GreedyField, ReprMixin, one_line
from regplugins.spatial import is_ct

logger = logging.getLogger(__name__)

AUTO = "auto"


class PresetRegistration(ReprMixin):
    """Deformable registration with the settings of a preset, given or chosen by a pair's intensities.

    Args:
        preset: "same_modality", "multimodal", "ct_mr", "large_deformation", or "auto": ``choose`` names one of the
            first two for each pair.
        spacing: of the pair's grid, mm, one number or one per axis; lengths of the presets are multiples of it. None:
            automatic; lengths in mm are given for a 2 mm grid and scaled by the actual spacing.
        changes: settings that replace those of whichever preset is used, unless they are None: ``levels``,
            ``initializer``, ``parametrization``, ``symmetric`` and ``tolerance`` of ``DeformableRegistration``,
            ``similarity``, ``similarity_weights``, ``regularization`` and ``regularization_weight`` of ``PairLoss``,
            ``smoothing`` and ``step`` of the preset's parametrization. ``initializer`` "none" removes the preset's.
            "same_modality" has two, affine and convex; the better is kept.
            With another ``parametrization`` or ``regularization`` the weight of "same_modality" is 0.15, otherwise 0.

    Raises:
        ValueError: if the preset is unknown, ``smoothing`` or ``step`` is given beside a ``parametrization``, or as of
            ``DeformableRegistration`` and ``PairLoss``.
        TypeError: if a change is none of these, or as of ``DeformableRegistration`` and ``PairLoss``.
    """

    def __init__(self, preset: str = AUTO, spacing: float | Sequence[float] | None = None, **changes: Any) -> None:
        self.changes = {key: value for key, value in changes.items() if value is not None}
        presets = _presets(spacing, penalized=bool(self.changes.keys() & {"regularization", "parametrization"}))
        choice("preset", preset, {AUTO: None, **presets})
        self.preset = preset
        self.spacing = spacing
        initializer = self.changes.get("initializer")
        if isinstance(initializer, str) and initializer != "none":
            raise ValueError(f'initializer must be one such as ConvexInitializer(), or "none", got {initializer!r}')
        if "parametrization" in self.changes and self.changes.keys() & {"smoothing", "step"}:
            raise ValueError("give smoothing and step within the parametrization, not beside it")
        self._registrations = {
            name: _registration(settings, self.changes, spacing) for name, settings in presets.items()
        }

    def choose(
        self, pair: Tensor, scans: Sequence[Tensor], masks: Mapping[str, Tensor] | None = None
    ) -> tuple[str, dict[str, float]]:
        """Name the preset of a pair, and log it.

        Two CTs are of the same modality, and other images are if a linear map of intensities relates them; of
        photographs less is asked.

        Args:
            pair: ``(2, *spatial)`` in [0, 1], moving and fixed image after the initial alignment.
            scans: both images as they are stored, by which CTs and photographs are recognized.
            masks: ``(1, 1, *spatial)``, not zero where voxels count; default: all.

        Returns:
            The name, and the statistics that decided; none if the preset is not "auto".
        """
        if self.preset != AUTO:
            return self.preset, {}
        statistics = {"ct_images": float(sum(map(is_ct, scans))), "photographs": float(sum(map(is_photograph, scans)))}
        is_one = statistics["ct_images"] == 2
        if not is_one:
            mask = torch.stack(list(masks.values())).amin(dim=0)[0, 0] if masks else None
            statistics |= modality_statistics(pair, mask)
            is_one = is_one_modality(statistics, photographs=statistics["photographs"] == 2)
        name = "same_modality" if is_one else "multimodal"
        logger.info("preset %s: %s", name, ", ".join(f"{key} {value:.3g}" for key, value in statistics.items()))
        return name, statistics

    def registration(self, preset: str) -> DeformableRegistration:
        """Registration with a preset's settings and the changes; ``ValueError`` if the preset is unknown or "auto"."""
        return choice("preset", preset, self._registrations)

    def settings(self, preset: str, spacing: Sequence[float] | None = None) -> dict[str, Any]:
        """Settings of a preset with the changes, for a report.

        ``spacing`` is that of the pair's grid, mm, one per axis, if it is automatic: levels are given for it. Default:
        for a grid of 2 mm.
        """
        registration = self.registration(preset)
        objective: Any = registration.objective
        scale = min(spacing) / REFERENCE_SPACING if spacing is not None and self.spacing is None else 1.0
        return {
            "levels": [[size * scale, count] for size, count in registration.levels],
            "similarity": ", ".join(one_line(similarity) for similarity in objective.similarities),
            "similarity_weights": objective.weights,
            "regularization": str(objective.regularization),
            "regularization_weight": objective.regularization_weight,
            "parametrization": str(registration.parametrization),
            "initializer": ", ".join(map(str, registration.initializers)) or None,
            "symmetric": registration.symmetric,
            "tolerance": registration.tolerance,
        }

    def __call__(
        self,
        pair: Tensor,
        start: Tensor | None = None,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
        chosen: MutableMapping[str, Any] | None = None,
    ) -> Tensor:
        """Register a pair; see ``DeformableRegistration``.

        Args:
            pair, start, fixed_mask, moving_mask: as of ``DeformableRegistration``.
            chosen: ``preset``, which ``choose`` named; the ``initializer`` that the pair kept is added. Default: the
                preset is that of this object.

        Raises:
            ValueError: if neither names a preset.
        """
        chosen = {"preset": self.preset} if chosen is None else chosen
        registration = self.registration(chosen["preset"])
        field, kept = registration.register(pair, start, fixed_mask, moving_mask)
        chosen["initializer"] = ", ".join(str(one) for one in dict.fromkeys(kept) if one is not None) or None
        return field


def _presets(spacing: float | Sequence[float] | None, penalized: bool) -> dict[str, dict[str, Any]]:
    """Settings of each preset for a grid; ``penalized``: smoothness is not left to ``GreedyField``."""
    finest = min_spacing(spacing)
    affine = AffineRegistration(LocalNCCLoss(kernel_size=9), "affine", [(4 * finest, 40), (2 * finest, 20)], spacing)
    multimodal = {
        "levels": [(4 * finest, 40), (2 * finest, 40), (finest, 20)],
        "similarity": MINDLoss("ssc", radius=1, dilation=1),
        "regularization": SquaredLaplacianLoss(),
        "regularization_weight": 2.0,
        "parametrization": CompositiveField(2.0, 0.3),
    }
    return {
        "same_modality": {
            "levels": [(4 * finest, 60), (2 * finest, 40), (finest, 20)],
            "similarity": LocalNCCLoss(kernel_size=5),
            "regularization": SquaredGradientLoss(),
            "regularization_weight": 0.15 if penalized else 0.0,
            "parametrization": GreedyField(1.7, 0.5),
            "initializer": [AffineInitializer(affine), ConvexInitializer(16 * finest, 4 * finest, spacing)],
        },
        "multimodal": multimodal,
        "ct_mr": {
            **multimodal,
            "levels": [(4 * finest, 40), (2 * finest, 40)],
            "parametrization": CompositiveField(3.0, 0.3),
        },
        "large_deformation": {
            **multimodal,
            "levels": [(4 * finest, 60), (2 * finest, 60), (finest, 20)],
            "initializer": ConvexInitializer(20 * finest, 4 * finest, spacing),
        },
    }


def _registration(
    preset: Mapping[str, Any], changes: Mapping[str, Any], spacing: float | Sequence[float] | None
) -> DeformableRegistration:
    """Optimizer with the settings of a preset and their changes."""
    given = {**preset, **changes}
    if given.get("initializer") == "none":
        del given["initializer"]
    objective = PairLoss(
        given.pop("similarity"),
        given.pop("regularization"),
        given.pop("regularization_weight"),
        given.pop("similarity_weights", None),
    )
    field = given.pop("parametrization")
    if changes.keys() & {"smoothing", "step"}:
        field = type(field)(given.pop("smoothing", field.smoothing), given.pop("step", field.step))
    return DeformableRegistration(objective, parametrization=field, spacing=spacing, **given)
