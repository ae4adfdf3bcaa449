# SPDX-License-Identifier: Apache-2.0
"""Agreement of images warped by a found and by the true transform (Islam et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.metrics import compute_surface_dice
from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor

_WINDOW = 7


def warped_agreement(
    found: Tensor, true: Tensor, threshold: float, spacing: Sequence[float], tolerance: float = 2.0
) -> dict[str, float]:
    """Overlap of the patient, of the patient's contours, and of the intensities.

    Args:
        found: ``(1, *spatial)``, warped by the transform that was found.
        true: ``(1, *spatial)``, warped by the true transform.
        threshold: intensity above which a voxel belongs to the patient.
        spacing: mm.
        tolerance: mm within which contours agree.

    Returns:
        ``dice``, ``jaccard``, ``precision``, ``sensitivity``; ``contour``, the share of both contours within the
        tolerance of the other (Nikolov et al. 2018; the paper's printed score is Dice's); ``ssim`` (Wang et al. 2004,
        box of 7 voxels).
    """
    masks = [image > threshold for image in (found, true)]
    both = float((masks[0] & masks[1]).sum())
    sizes = [float(mask.sum()) for mask in masks]
    channels = [torch.stack([~mask, mask], dim=1).float() for mask in masks]
    contour = compute_surface_dice(*channels, [tolerance], include_background=False, spacing=tuple(spacing))
    value_range = float(true.max() - true.min())
    ssim, _ = compute_ssim_and_cs(
        found[None].float(),
        true[None].float(),
        spatial_dims=found.ndim - 1,
        kernel_size=[_WINDOW] * (found.ndim - 1),
        kernel_sigma=[1.5] * (found.ndim - 1),
        data_range=value_range,
        kernel_type="uniform",
    )
    return {
        "dice": 2 * both / sum(sizes),
        "jaccard": both / (sum(sizes) - both),
        "precision": both / sizes[0] if sizes[0] else 0.0,
        "sensitivity": both / sizes[1],
        "contour": float(contour),
        "ssim": float(ssim.mean()),
    }
