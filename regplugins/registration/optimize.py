# SPDX-License-Identifier: Apache-2.0
"""Optimization of a resampled pair: an affine transform, then a displacement field."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from regplugins.registration.affine import AffineRegistration
from regplugins.registration.deformable import DeformableRegistration
from regplugins.registration.image_pair import REFERENCE_SPACING
from regplugins.registration.intensity import scale_percentiles
from regplugins.registration.network_grid import resample_masks, resample_pair
from regplugins.registration.presets import PresetRegistration
from regplugins.spatial import AffineTransform, DisplacementField, SpatialTransform


def optimize_pair(
    pair: Mapping[str, Any],
    affine: AffineRegistration | None = None,
    deformable: DeformableRegistration | PresetRegistration | None = None,
    device: str | torch.device | None = None,
) -> tuple[SpatialTransform, dict[str, Any]]:
    """Optimize a rigid or affine transform and a displacement field from the initial transform of a pair.

    Args:
        pair: ``fixed`` and ``moving`` images ``(1, *spatial)``, ``grid``, the network grid, ``initial``, the transform
            from the fixed to the moving world, and perhaps ``fixed_mask`` and ``moving_mask`` (``paths`` name them).
        affine: optimizes a rigid or affine transform; None: skipped.
        deformable: optimizes the displacement field after that; a preset "auto" is chosen by the pair. None: skipped.
        device: where to optimize; default: that of the fixed image.

    Returns:
        The transform from the fixed to the moving world, RAS+ mm, and what was chosen of a ``PresetRegistration``:
        ``preset``, the statistics that decided, and ``initializer``; else empty.

    Raises:
        ValueError: if a mask is zero on the whole grid.
    """
    grid, transform = pair["grid"], pair["initial"]
    device = device or pair["fixed"].device
    chosen: dict[str, Any] = {}

    def inputs() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images = resample_pair(pair["fixed"], pair["moving"], grid, transform)
        scaled = torch.stack([scale_percentiles(image) for image in images])
        return scaled[None].to(device), resample_masks(pair, grid, transform, device)

    if affine is not None:
        if affine.spacing is None:
            affine = copy.copy(affine)
            affine.spacing = (grid.spacing * (REFERENCE_SPACING / grid.spacing.min())).tolist()
        images, masks = inputs()
        matrix = affine(images, **masks)[0]
        transform = transform @ AffineTransform(grid.affine @ matrix @ torch.linalg.inv(grid.affine))
    if deformable is not None:
        images, masks = inputs()
        options: dict[str, Any] = dict(masks)
        if isinstance(deformable, PresetRegistration):
            preset, statistics = deformable.choose(images[0], (pair["moving"], pair["fixed"]), masks)
            chosen = {"preset": preset, **statistics}
            options["chosen"] = chosen
        transform = transform @ DisplacementField.from_ddf(deformable(images, **options)[0].cpu(), grid)
    return transform, chosen
