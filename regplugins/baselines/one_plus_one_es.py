# SPDX-License-Identifier: Apache-2.0
"""Rigid registration by the pose of the principal axes and a one-plus-one evolution (Islam et al. 2021)."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import torch
from torch import Tensor

from regplugins.io.itk_bridge import image_to_itk, itk_class
from regplugins.io.lps import flip_matrix, flip_points
from regplugins.registration.centers import center_of_mass, weighted_foreground
from regplugins.registration.mattes_metric import MutualInformation
from regplugins.registration.poses import principal_axes, turned_about
from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform, Grid

# The paper's, but for the growth factor, which it gives as 1.05 x 1000.
_GROWTH, _EPSILON, _RADIUS, _ITERATIONS, _BINS = 1.05, 1.5e-6, 6.25e-3, 100, 50
# By which the ways to lay the axes along each other are told apart.
_SAMPLES = 10_000


def principal_axes_pose(fixed: Volume, moving: Volume, seed: int = 0) -> AffineTransform:
    """The rigid transform that lays the principal axes of one image along those of the other, ``T_fix T_mov⁻¹``.

    Axes have no direction, and two of a head's are nearly as long as each other, so that one scanner's second may be
    the other's third: of the 24 ways to lay them along each other that keep their handedness, the one with the largest
    product of mutual information and overlap is taken. The paper takes them as they come.

    Args:
        fixed: 3-D image whose world the transform maps from.
        moving: 3-D image whose world it maps to.
        seed: of the points that are looked at.

    Returns:
        From the fixed to the moving world, RAS+ mm.
    """
    similarity = MutualInformation(fixed, moving, _SAMPLES, _BINS, seed)
    a, b = principal_axes(fixed), principal_axes(moving)
    origin, target = center_of_mass(fixed), center_of_mass(moving)
    ways = []
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            along = torch.eye(3, dtype=torch.float64)[list(order)] * torch.tensor(signs, dtype=torch.float64)
            if torch.linalg.det(along) > 0:
                pose = turned_about(b @ along @ a.T, origin, target)
                information, overlap = similarity.value(pose.matrix)
                ways.append((information * overlap, pose))
    return max(ways, key=lambda way: way[0])[1]


def register_one_plus_one_es(
    fixed: Volume, moving: Volume, pose: bool = True, iterations: int = _ITERATIONS, seed: int = 0
) -> AffineTransform:
    """Maximize Mattes' mutual information over rigid transforms by random changes that are kept where they help.

    With ``pose`` the search starts from ``principal_axes_pose``, without from where the images lie.

    Args:
        fixed: 3-D image whose world the transform maps from.
        moving: 3-D image whose world it maps to.
        pose: start from the poses of the principal axes.
        iterations: at most so many changes.
        seed: of the changes.

    Returns:
        From the fixed to the moving world, RAS+ mm.

    Raises:
        ValueError: the images are not 3-D, or do not overlap where the search starts.
    """
    if fixed.grid.ndim != 3 or moving.grid.ndim != 3:
        raise ValueError(f"expected two 3-D images, got {fixed.grid.ndim}-D and {moving.grid.ndim}-D")
    start = principal_axes_pose(fixed, moving, seed) if pose else AffineTransform.identity(3)
    points, weights = weighted_foreground(fixed)
    center = weights @ points / weights.sum()
    radius = (points - center).square().sum(dim=1).mean().sqrt().item()

    change = itk_class("Euler3DTransform", "D").New()
    change.SetCenter(flip_points(center[None])[0].tolist())
    # The search is about small changes: the start is made part of the image's place in the world.
    metric = itk_class("MattesMutualInformationImageToImageMetricv4", "IF3IF3").New()
    metric.SetNumberOfHistogramBins(_BINS)
    image = image_to_itk(fixed.values, fixed.grid)
    metric.SetFixedImage(image)
    metric.SetVirtualDomainFromImage(image)
    grid = Grid(moving.grid.shape, torch.linalg.inv(start.matrix) @ moving.grid.affine)
    metric.SetMovingImage(image_to_itk(moving.values, grid))
    metric.SetMovingTransform(change)
    metric.SetUseFixedImageGradientFilter(False)
    metric.SetUseMovingImageGradientFilter(False)
    metric.SetMaximumNumberOfWorkUnits(1)  # threads would add in another order each time

    random = itk_class("NormalVariateGenerator", "", "NormalVariateGenerator").New()
    random.Initialize(seed)
    optimizer = itk_class("OnePlusOneEvolutionaryOptimizerv4", "D").New()
    optimizer.SetNormalVariateGenerator(random)
    optimizer.SetEpsilon(_EPSILON)
    optimizer.Initialize(_RADIUS, _GROWTH)
    optimizer.SetMaximumIteration(iterations)
    scales = itk_class("OptimizerParameters", "D")(6)
    for k in range(6):  # radians, and mm that move the head as far
        scales.SetElement(k, 1.0 if k < 3 else 1.0 / radius)
    optimizer.SetScales(scales)
    optimizer.SetMetric(metric)
    try:
        metric.Initialize()
        optimizer.StartOptimization()
    except RuntimeError as error:
        raise ValueError("the fixed and the moving image do not overlap where the search starts") from error
    return AffineTransform(start.matrix @ _matrix(optimizer.GetCurrentPosition(), change))


def _matrix(parameters: Any, change: Any) -> Tensor:
    change.SetParameters(parameters)
    matrix = torch.eye(4, dtype=torch.float64)
    itk_matrix, offset = change.GetMatrix(), change.GetOffset()
    for row in range(3):
        for column in range(3):
            matrix[row, column] = itk_matrix(row, column)
        matrix[row, 3] = offset[row]
    return flip_matrix(matrix)
