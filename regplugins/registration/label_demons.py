# SPDX-License-Identifier: Apache-2.0
"""Registration of two label maps by ITK's demons on their distance maps."""

from __future__ import annotations

from typing import Any

import itk
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from regplugins.io.itk_bridge import itk_class
from regplugins.spatial import DisplacementField, Grid

# Distances are clipped at this many voxels: first wide, to capture large displacements, then narrow, for accuracy.
_REACHES = (8.0, 4.0, 2.0)


def align_labels(
    fixed: Tensor, moving: Tensor, grid: Grid, iterations: int = 50, smoothing: float = 1.0
) -> DisplacementField:
    """Register two label maps by diffeomorphic demons (Cao et al., MLMI 2018, section 3).

    The demons (Vercauteren et al., NeuroImage 2009) register one scalar image: the weighted sum of the structures'
    clipped signed distance maps. Different weights keep touching structures from canceling at their border.

    Args:
        fixed: ``(1, *grid.shape)`` integers, 0 is background.
        moving: the same of the moving image, resampled to the grid by an affine transform.
        grid: of both.
        iterations: of the demons, for each of three clipping distances.
        smoothing: standard deviation of the Gaussian that smooths the field in each iteration, voxels.

    Returns:
        On the grid, from the fixed to the moving world.

    Raises:
        ValueError: if a shape does not match the grid, or the label maps have no structure in common.
    """
    if fixed.shape != (1, *grid.shape) or moving.shape != fixed.shape:
        raise ValueError(f"expected two label maps (1, *{grid.shape}), got {fixed.shape} and {moving.shape}")
    common = sorted({*fixed.unique().tolist()} & {*moving.unique().tolist()} - {0})
    if not common:
        raise ValueError("the two label maps have no structure in common")
    n, field = grid.ndim, None
    kind = itk_class("DiffeomorphicDemonsRegistrationFilter", f"IF{n}IF{n}IVF{n}{n}")
    for reach in (width * max(grid.spacing.tolist()) for width in _REACHES):
        demons = kind.New()
        demons.SetFixedImage(_distances(fixed[0], common, grid, reach))
        demons.SetMovingImage(_distances(moving[0], common, grid, reach))
        demons.SetNumberOfIterations(iterations)
        demons.SmoothDisplacementFieldOn()
        demons.SetStandardDeviations(smoothing)
        if field is not None:
            demons.SetInitialDisplacementField(field)
        demons.Update()
        field = demons.GetOutput()
        field.DisconnectPipeline()
    # mm along the array's axes, which ITK stores in reverse order
    vectors = torch.from_numpy(itk.array_from_image(field).T.copy())
    return DisplacementField.from_ddf(vectors / grid.spacing.float().view(-1, *[1] * grid.ndim), grid)


def _distances(labels: Tensor, values: list[int], grid: Grid, reach: float) -> Any:
    """Weighted sum of signed distances in mm, negative inside, clipped at ``reach``, as an ITK image."""
    sizes, total = grid.spacing.tolist(), np.zeros(grid.shape, np.float32)
    for number, value in enumerate(values):
        mask = (labels == value).numpy()
        signed = distance_transform_edt(~mask, sizes) - distance_transform_edt(mask, sizes)
        total += (1 + number / len(values)) * signed.clip(-reach, reach)
    image = itk.image_from_array(np.ascontiguousarray(total.T))
    image.SetSpacing(sizes)
    return image
