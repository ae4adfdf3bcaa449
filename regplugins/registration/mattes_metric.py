# SPDX-License-Identifier: Apache-2.0
"""Mattes mutual information of two images under an affine transform, with its gradient, computed by ITK.

Mattes et al., "PET-CT image registration in the chest using free-form deformations", IEEE Transactions on Medical
Imaging 22 (2003).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regplugins.io.itk_bridge import affine_parameters, flip_matrix, flip_points, image_to_itk, itk_class, points_to_itk
from regplugins.registration.volume import Volume


class MutualInformation:
    """Mattes mutual information at ``samples`` random points of the fixed image, sampled in the moving one.

    Each point has a random position within its voxel; voxel centers would favor transforms that align the two grids.
    There is at most one point for each voxel of the image or its mask. ``bins`` is per axis of the joint histogram.

    Attributes:
        points: ``(samples, n)`` float64, RAS+ mm.
        voxel: smallest spacing of the fixed image, mm.
    """

    def __init__(self, fixed: Volume, moving: Volume, samples: int, bins: int, seed: int) -> None:
        n = fixed.grid.ndim
        self.points = _draw(fixed, samples, seed)
        self.voxel = fixed.grid.spacing.min().item()
        points = points_to_itk(flip_points(self.points))
        self._transform = itk_class("AffineTransform", f"D{n}").New()
        self._derivative = itk_class("Array", "D")()
        metric = itk_mattes_metric(fixed, moving, self._transform, bins)
        for volume, set_mask in ((fixed, metric.SetFixedImageMask), (moving, metric.SetMovingImageMask)):
            if volume.mask is not None:
                mask = itk_class("ImageMaskSpatialObject", str(n)).New()
                mask.SetImage(image_to_itk(volume.mask.to(torch.uint8), volume.grid))
                mask.Update()
                set_mask(mask)
        metric.SetVirtualSampledPointSet(points)
        metric.SetUseVirtualSampledPointSet(True)
        metric.SetUseSampledPointSet(True)
        # Few points fall into bins of their own, with spuriously high mutual information.
        self._min_points = bins // 2
        # ITK cannot make a histogram of a constant image.
        self._is_constant = fixed.is_constant or moving.is_constant
        if not self._is_constant:
            metric.Initialize()
        self._metric = metric

    def value(self, matrix: Tensor) -> tuple[float, int]:
        """Mutual information in nats and number of points in both images, both 0 if these are too few.

        ``matrix``, ``(n + 1, n + 1)`` float64, leads from the fixed to the moving world, RAS+ mm.
        """
        return self._evaluate(matrix, self._metric.GetValue)

    def gradient(self, matrix: Tensor) -> tuple[float, int, Tensor]:
        """Evaluate one transform as ``value`` does, and the gradient with respect to the matrix."""
        information, overlap = self._evaluate(matrix, lambda: self._metric.GetDerivative(self._derivative))
        gradient = torch.zeros_like(matrix)
        if overlap > 0:
            # ITK minimizes -MI; its derivative is the direction of descent.
            n = self.points.shape[1]
            flat = torch.tensor([self._derivative.GetElement(k) for k in range(n * n + n)], dtype=torch.float64)
            gradient[:n, :n], gradient[:n, n] = flat[: n * n].view(n, n), flat[n * n :]
        return information, overlap, flip_matrix(gradient)

    def _evaluate(self, matrix: Tensor, compute: Callable[[], object]) -> tuple[float, int]:
        if self._is_constant:
            return 0.0, 0
        self._transform.SetParameters(affine_parameters(matrix))
        try:
            compute()
        except RuntimeError:  # no point lies in both images, or all have the same value in one of them
            return 0.0, 0
        overlap = self._metric.GetNumberOfValidPoints()
        return (0.0, 0) if overlap < self._min_points else (-self._metric.GetCurrentValue(), overlap)


def itk_mattes_metric(fixed: Volume, moving: Volume, transform: Any, bins: int) -> Any:
    """ITK's metric of two images and a moving transform, not yet initialized."""
    n = fixed.grid.ndim
    metric = itk_class("MattesMutualInformationImageToImageMetricv4", f"IF{n}IF{n}").New()
    metric.SetNumberOfHistogramBins(bins)
    image = image_to_itk(fixed.values, fixed.grid)
    metric.SetFixedImage(image)
    metric.SetVirtualDomainFromImage(image)
    metric.SetMovingImage(image_to_itk(moving.values, moving.grid))
    metric.SetMovingTransform(transform)
    # Compute gradients at the points only.
    metric.SetUseFixedImageGradientFilter(False)
    metric.SetUseMovingImageGradientFilter(False)
    # Several threads add their sums in varying order, so that results would vary.
    metric.SetMaximumNumberOfWorkUnits(1)
    return metric


def _draw(volume: Volume, samples: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    candidates = torch.arange(volume.values.numel()) if volume.mask is None else volume.mask.flatten().nonzero()[:, 0]
    # In memory order, which makes access to both images fast.
    voxels = candidates[torch.randperm(len(candidates), generator=random)[:samples].sort().values]
    index = torch.stack(torch.unravel_index(voxels, volume.grid.shape), dim=1)
    return volume.grid.index_to_world(index + torch.rand(index.shape, generator=random, dtype=torch.float64) - 0.5)
