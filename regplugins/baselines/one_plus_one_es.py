# SPDX-License-Identifier: Apache-2.0
"""Rigid registration by principal axes and a one-plus-one evolution strategy (Islam et al. 2021)."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from typing import Any

import torch
from torch import Tensor

from regplugins.io.itk_bridge import flip_matrix, flip_points, image_to_itk, itk_class
from regplugins.registration.mattes_metric import MutualInformation
from regplugins.registration.poses import center_of_mass, principal_axes, rotations_about, weighted_foreground
from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform, Grid

# Of the paper, except for the growth factor, which it gives as 1.05 x 1000.
_GROWTH, _EPSILON, _RADIUS, _ITERATIONS, _BINS = 1.05, 1.5e-6, 6.25e-3, 100, 50
# Points on which the alignments of the axes are compared.
_SAMPLES = 10_000


def principal_axes_pose(fixed: Volume, moving: Volume, seed: int = 0) -> AffineTransform:
    """Rigid transform that aligns the principal axes of two 3-D images, ``T_fix T_mov⁻¹``.

    Axes have no sign, and the order of axes of similar length may differ between images. Of the 24 proper alignments
    the one with the largest product of mutual information and overlap is taken, by samples of that seed. The paper
    takes the first. The transform leads from the fixed to the moving world, RAS+ mm.
    """
    similarity = MutualInformation(fixed, moving, _SAMPLES, _BINS, seed)
    a, b = principal_axes(fixed), principal_axes(moving)
    origin, target = center_of_mass(fixed), center_of_mass(moving)
    signs = [torch.tensor(s, dtype=torch.float64) for s in product((1.0, -1.0), repeat=3)]
    axes = [torch.eye(3, dtype=torch.float64)[list(order)] * s for order in permutations(range(3)) for s in signs]
    rotations = torch.stack([b @ permuted @ a.T for permuted in axes if torch.linalg.det(permuted) > 0])
    poses = rotations_about(rotations, origin, target)
    information, overlap = similarity.value(poses)
    return AffineTransform(poses[int((information * overlap).argmax())])


def register_one_plus_one_es(
    fixed: Volume, moving: Volume, pose: bool = True, iterations: int = _ITERATIONS, seed: int = 0
) -> AffineTransform:
    """Maximize Mattes' mutual information over rigid transforms by a one-plus-one evolution strategy.

    Args:
        fixed: 3-D image.
        moving: 3-D image.
        pose: start from ``principal_axes_pose``; False: from the identity.
        iterations: largest number of mutations.
        seed: of the mutations.

    Returns:
        From the fixed to the moving world, RAS+ mm; ``ValueError`` if the images are not 3-D, or do not overlap at the
            start.
    """
    if fixed.grid.ndim != 3 or moving.grid.ndim != 3:
        raise ValueError(f"expected two 3-D images, got {fixed.grid.ndim}-D and {moving.grid.ndim}-D")
    start = principal_axes_pose(fixed, moving, seed) if pose else AffineTransform.identity(3)
    points, weights = weighted_foreground(fixed)
    center = weights @ points / weights.sum()
    radius = (points - center).square().sum(dim=1).mean().sqrt().item()

    change = itk_class("Euler3DTransform", "D").New()
    change.SetCenter(flip_points(center[None])[0].tolist())
    # Moving the image's grid by the start makes the search one of small changes.
    grid = Grid(moving.grid.shape, torch.linalg.inv(start.matrix) @ moving.grid.affine)
    metric = _mattes_metric(fixed, replace(moving, grid=grid), change)
    random = itk_class("NormalVariateGenerator", "", "NormalVariateGenerator").New()
    random.Initialize(seed)
    optimizer = itk_class("OnePlusOneEvolutionaryOptimizerv4", "D").New()
    optimizer.SetNormalVariateGenerator(random)
    optimizer.SetEpsilon(_EPSILON)
    optimizer.Initialize(_RADIUS, _GROWTH)
    optimizer.SetMaximumIteration(iterations)
    scales = itk_class("OptimizerParameters", "D")(6)
    for k in range(6):  # radians, and mm of the same mean motion
        scales.SetElement(k, 1.0 if k < 3 else 1.0 / radius)
    optimizer.SetScales(scales)
    optimizer.SetMetric(metric)
    try:
        metric.Initialize()
        optimizer.StartOptimization()
    except RuntimeError as error:
        raise ValueError("the fixed and the moving image do not overlap at the start of the search") from error
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


def _mattes_metric(fixed: Volume, moving: Volume, transform: Any) -> Any:
    """ITK's metric of two images and a moving transform, not yet initialized."""
    metric = itk_class("MattesMutualInformationImageToImageMetricv4", "IF3IF3").New()
    metric.SetNumberOfHistogramBins(_BINS)
    image = image_to_itk(fixed.values, fixed.grid)
    metric.SetFixedImage(image)
    metric.SetVirtualDomainFromImage(image)
    metric.SetMovingImage(image_to_itk(moving.values, moving.grid))
    metric.SetMovingTransform(transform)
    metric.SetUseMovingImageGradientFilter(False)
    # Several threads add their sums in varying order, so that results would vary.
    metric.SetMaximumNumberOfWorkUnits(1)
    return metric
