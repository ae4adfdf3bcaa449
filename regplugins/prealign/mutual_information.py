# SPDX-License-Identifier: Apache-2.0
"""Rigid and affine registration by mutual information, coarse to fine, with ITK.

Mattes et al., "PET-CT image registration in the chest using free-form deformations", IEEE Trans. Medical Imaging 22
(2003).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from regplugins.io.lps import flip_matrix, flip_points
from regplugins.prealign.centres import centre_of_mass
from regplugins.prealign.itk_bridge import itk_class, to_itk
from regplugins.prealign.volume import Volume
from regplugins.spatial import AffineTransform

# Voxels of each resolution: a head at about 8, 4 and 2 mm.
_SIZES = {2: (64**2, 128**2, 256**2), 3: (32**3, 64**3, 128**3)}
_SAMPLES = 20000
_BINS = 32
_RANDOM_SAMPLING = 2
# Steps in voxels.
_FIRST_STEP, _LAST_STEP, _STEPS = 1.0, 1e-3, 100


def register(
    kind: str, fixed: Volume, moving: Volume, starts: Sequence[AffineTransform], seed: int = 0
) -> AffineTransform:
    """Maximise the mutual information of two images.

    From every start at the coarsest resolution; the best of the results is refined at the finer ones. Best is what has
    the largest mutual information times overlap: two images that touch in a corner can share much information there.

    Args:
        kind: "rigid" or "affine".
        fixed: image whose world the transform maps from.
        moving: image whose world it maps to.
        starts: rigid transforms from the fixed to the moving world.
        seed: of the choice of the samples; the same seed gives the same result.

    Returns:
        From the fixed to the moving world, RAS+ mm.

    Raises:
        ValueError: the images overlap under no start.
    """
    levels = [(fixed.shrunk(size), moving.shrunk(size)) for size in _SIZES[fixed.grid.ndim]]
    results = [_optimise("rigid", *levels[0], start, seed) for start in starts]
    transform, score = max(results, key=lambda result: result[1])
    if score <= 0:
        raise ValueError("the fixed and the moving image do not overlap under any initial translation")
    for level in levels if kind == "affine" else levels[1:]:
        transform, _ = _optimise(kind, *level, transform, seed)
    return transform


def _optimise(
    kind: str, fixed: Volume, moving: Volume, start: AffineTransform, seed: int
) -> tuple[AffineTransform, float]:
    """Optimise at one resolution; the transform and its mutual information times overlap, 0 where there is none."""
    n = fixed.grid.ndim
    transform = _parameters(kind, fixed, start)
    metric = itk_class("MattesMutualInformationImageToImageMetricv4", f"IF{n}IF{n}").New()
    metric.SetNumberOfHistogramBins(_BINS)
    metric.SetUseFixedImageGradientFilter(False)
    metric.SetUseMovingImageGradientFilter(False)
    # Several threads add up their sums in the order in which they finish: no two runs would be the same.
    metric.SetMaximumNumberOfWorkUnits(1)
    images = [to_itk(volume.values, volume.grid) for volume in (fixed, moving)]
    masks = [_mask(volume) for volume in (fixed, moving)]
    if masks[0] is not None:
        metric.SetFixedImageMask(masks[0][0])
    if masks[1] is not None:
        metric.SetMovingImageMask(masks[1][0])

    scales = itk_class("RegistrationParameterScalesFromPhysicalShift", f"MMIITIMF{n}").New()
    scales.SetMetric(metric)
    voxel = fixed.grid.spacing.min().item()
    optimiser = itk_class("RegularStepGradientDescentOptimizerv4", "D").New()
    optimiser.SetScalesEstimator(scales)
    optimiser.SetLearningRate(_FIRST_STEP * voxel)
    optimiser.SetMinimumStepLength(_LAST_STEP * voxel)
    optimiser.SetNumberOfIterations(_STEPS)
    optimiser.SetReturnBestParametersAndValue(True)

    registration = itk_class("ImageRegistrationMethodv4", f"REGv4F{n}F{n}").New()
    registration.SetFixedImage(images[0])
    registration.SetMovingImage(images[1])
    registration.SetMetric(metric)
    registration.SetOptimizer(optimiser)
    registration.SetInitialTransform(transform)
    registration.SetInPlace(True)
    registration.SetNumberOfLevels(1)
    registration.SetShrinkFactorsPerLevel([1])
    registration.SetSmoothingSigmasPerLevel([0.0])
    registration.SetMetricSamplingStrategy(_RANDOM_SAMPLING)
    visible = fixed.values.numel() if fixed.mask is None else int(fixed.mask.sum())
    registration.SetMetricSamplingPercentage(min(1.0, _SAMPLES / visible))
    registration.MetricSamplingReinitializeSeed(seed)
    registration.Update()
    metric.SetMovingTransform(transform)
    value = -metric.GetValue() * metric.GetNumberOfValidPoints()
    if DEBUG:
        print(kind, tuple(fixed.values.shape), optimiser.GetCurrentIteration(), value, optimiser.GetValue(), optimiser.GetStopConditionDescription()[38:])
    return _matrix(transform), value

DEBUG = False

def _parameters(kind: str, fixed: Volume, start: AffineTransform) -> Any:
    """ITK's transform that is ``start``, turning about the middle of what is to be aligned."""
    n = start.ndim
    name, variant = (f"Euler{n}DTransform", "D") if kind == "rigid" else ("AffineTransform", f"D{n}")
    transform = itk_class(name, variant).New()
    matrix = flip_matrix(start.matrix).numpy()
    transform.SetCenter(flip_points(centre_of_mass(fixed)).tolist())
    linear = itk_matrix(matrix[:n, :n])
    transform.SetMatrix(linear)
    transform.SetOffset(matrix[:n, n].tolist())
    return transform
