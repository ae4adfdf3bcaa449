# SPDX-License-Identifier: Apache-2.0
"""Rigid and affine registration by mutual information, coarse to fine, with ITK.

Mattes et al., "PET-CT image registration in the chest using free-form deformations", IEEE Transactions on Medical
Imaging 22 (2003).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regplugins.io.lps import flip_points
from regplugins.prealign.centres import centre_of_mass
from regplugins.prealign.itk_bridge import affine_from_itk, affine_to_itk, image_to_itk, itk_class
from regplugins.prealign.volume import Volume
from regplugins.spatial import AffineTransform, Grid

# Voxels at each resolution: a head at about 8, 4 and 2 mm.
_SIZES = {2: (64**2, 128**2, 256**2), 3: (32**3, 64**3, 128**3)}
_SAMPLES = 30_000
# More of them leave too few samples in each for images in which little but the bone differs from the rest.
_BINS = 24
_ITERATIONS = 100
# In voxels of the resolution at hand.
_FIRST_STEP, _LAST_STEP = 1.0, 1e-3
_RANDOM = 2  # ITK's enumeration of sampling strategies


def register(
    kind: str, fixed: Volume, moving: Volume, starts: Sequence[AffineTransform], seed: int = 0
) -> AffineTransform:
    """Maximise the mutual information of two images over rigid or affine transforms.

    The coarsest resolution is registered rigidly from every start, the best result is refined at the finer ones. Best
    is the largest product of mutual information and overlap: images that share no more than a corner may agree there.

    Args:
        kind: "rigid" or "affine".
        fixed: image whose world the transform maps from.
        moving: image whose world it maps to.
        starts: from the fixed to the moving world; rigid ones, or the result will be none.
        seed: of the choice of samples; the same seed gives the same result to the last bit.

    Returns:
        From the fixed to the moving world, RAS+ mm.

    Raises:
        ValueError: the images, or the parts of them that their masks leave, share nothing from any start.
    """
    sizes = _SIZES[fixed.grid.ndim]
    # A small image is the same volume at several sizes.
    levels = list(dict.fromkeys((fixed.shrunk(size), moving.shrunk(size)) for size in sizes))
    centre = centre_of_mass(fixed)
    coarse = levels[0]
    results = [_optimise("rigid", *coarse, start, centre, seed) for start in _distinct(starts, coarse[0].grid)]
    score, transform = max(results, key=lambda result: result[0])
    for level in levels[1:] if kind == "rigid" else levels:
        score, transform = _optimise(kind, *level, transform, centre, seed)
    if score <= 0:
        what = "what they share (where their masks are set) is empty or constant"
        raise ValueError(f"the fixed and the moving image cannot be registered: {what}")
    return transform


def _distinct(starts: Sequence[AffineTransform], grid: Grid) -> list[AffineTransform]:
    """The starts without those that differ from an earlier one by less than a voxel in all corners of the grid."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, size], dtype=torch.float64) for size in grid.shape])
    kept: list[AffineTransform] = []
    for start in starts:
        places = start(grid.index_to_world(corners))
        others = [(places - other(grid.index_to_world(corners))).norm(dim=-1).max() for other in kept]
        if all(distance > grid.spacing.min() for distance in others):
            kept.append(start)
    return kept


def _optimise(
    kind: str, fixed: Volume, moving: Volume, start: AffineTransform, centre: Tensor, seed: int
) -> tuple[float, AffineTransform]:
    """Register at one resolution.

    Returns:
        Mutual information times the number of samples that lie in both images (0: it cannot be had), and the transform.
    """
    n = fixed.grid.ndim
    metric = _metric(fixed, moving)
    # What is optimised precedes the start and begins as the identity: so any start will do.
    name, variant = (f"Euler{n}DTransform", "D") if kind == "rigid" else ("AffineTransform", f"D{n}")
    change = itk_class(name, variant).New()
    change.SetCenter(flip_points(centre).tolist())
    registration = itk_class("ImageRegistrationMethodv4", f"REGv4F{n}F{n}").New()
    registration.SetFixedImage(image_to_itk(fixed.values, fixed.grid))
    registration.SetMovingImage(image_to_itk(moving.values, moving.grid))
    registration.SetMovingInitialTransform(affine_to_itk(start))
    registration.SetInitialTransform(change)
    registration.SetInPlace(True)
    registration.SetMetric(metric)
    registration.SetOptimizer(_optimiser(metric, fixed.grid))
    registration.SetNumberOfLevels(1)
    registration.SetShrinkFactorsPerLevel([1])
    registration.SetSmoothingSigmasPerLevel([0.0])
    registration.SetMetricSamplingStrategy(_RANDOM)
    visible = fixed.values.numel() if fixed.mask is None else int(fixed.mask.sum())
    registration.SetMetricSamplingPercentage(min(1.0, _SAMPLES / visible))
    registration.MetricSamplingReinitializeSeed(seed)
    try:
        registration.Update()
    except RuntimeError:  # No sample lies in both images, or one of them has a single value there.
        return 0.0, start
    found = AffineTransform(start.matrix @ affine_from_itk(change).matrix)
    score = -metric.GetValue() * metric.GetNumberOfValidPoints()
    change.SetIdentity()
    # The first step is a whole voxel: from images that fit already it may not come back.
    score_before = -metric.GetValue() * metric.GetNumberOfValidPoints()
    return (score, found) if score > score_before else (score_before, start)


def _metric(fixed: Volume, moving: Volume) -> Any:
    n = fixed.grid.ndim
    metric = itk_class("MattesMutualInformationImageToImageMetricv4", f"IF{n}IF{n}").New()
    metric.SetNumberOfHistogramBins(_BINS)
    # Gradients are taken where a sample needs one instead of everywhere.
    metric.SetUseFixedImageGradientFilter(False)
    metric.SetUseMovingImageGradientFilter(False)
    # Threads add their sums up in the order in which they finish: no two runs would agree.
    metric.SetMaximumNumberOfWorkUnits(1)
    for volume, set_mask in ((fixed, metric.SetFixedImageMask), (moving, metric.SetMovingImageMask)):
        if volume.mask is not None:
            mask = itk_class("ImageMaskSpatialObject", str(n)).New()
            mask.SetImage(image_to_itk(volume.mask.to(torch.uint8), volume.grid))
            mask.Update()
            set_mask(mask)
    return metric


def _optimiser(metric: Any, grid: Grid) -> Any:
    """Gradient descent whose steps are halved on every turn, with parameters scaled by how far they move the image."""
    scales = itk_class("RegistrationParameterScalesFromPhysicalShift", f"MMIITIMF{grid.ndim}").New()
    scales.SetMetric(metric)
    voxel = grid.spacing.min().item()
    optimiser = itk_class("RegularStepGradientDescentOptimizerv4", "D").New()
    optimiser.SetScalesEstimator(scales)
    optimiser.SetLearningRate(_FIRST_STEP * voxel)
    optimiser.SetMinimumStepLength(_LAST_STEP * voxel)
    optimiser.SetNumberOfIterations(_ITERATIONS)
    return optimiser
