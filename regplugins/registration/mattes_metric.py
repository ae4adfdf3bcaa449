# SPDX-License-Identifier: Apache-2.0
"""Mattes mutual information of two images under an affine transform, with its gradient, computed by ITK.

Mattes et al., "PET-CT image registration in the chest using free-form deformations", IEEE Transactions on Medical
Imaging 22 (2003).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from regplugins.io.itk_bridge import affine_parameters, image_to_itk, itk_class, points_to_itk
from regplugins.io.lps import flip_matrix, flip_points
from regplugins.registration.volume import Volume


class MutualInformation:
    """The objective of a registration, on one random choice of points of the fixed image.

    Args:
        fixed: image in which the points are drawn, each at a random place within its own voxel: points on a lattice
            would make transforms that match the two lattices look better than they are.
        moving: image that is looked at where a transform takes the points.
        samples: number of points; fewer if the image (its mask) has fewer voxels.
        bins: of each axis of the joint histogram.
        seed: of the choice.

    Attributes:
        points: ``(samples, n)`` float64, RAS+ mm.
        voxel: smallest side of a voxel of the fixed image, mm.
    """

    def __init__(self, fixed: Volume, moving: Volume, samples: int, bins: int, seed: int) -> None:
        n = fixed.grid.ndim
        self.points = _draw(fixed, samples, seed)
        self.voxel = fixed.grid.spacing.min().item()
        points = points_to_itk(flip_points(self.points))
        self._transform = itk_class("AffineTransform", f"D{n}").New()
        self._derivative = itk_class("Array", "D")()
        metric = itk_class("MattesMutualInformationImageToImageMetricv4", f"IF{n}IF{n}").New()
        metric.SetNumberOfHistogramBins(bins)
        image = image_to_itk(fixed.values, fixed.grid)
        metric.SetFixedImage(image)
        metric.SetMovingImage(image_to_itk(moving.values, moving.grid))
        for volume, set_mask in ((fixed, metric.SetFixedImageMask), (moving, metric.SetMovingImageMask)):
            if volume.mask is not None:
                mask = itk_class("ImageMaskSpatialObject", str(n)).New()
                mask.SetImage(image_to_itk(volume.mask.to(torch.uint8), volume.grid))
                mask.Update()
                set_mask(mask)
        metric.SetVirtualDomainFromImage(image)
        metric.SetVirtualSampledPointSet(points)
        metric.SetUseVirtualSampledPointSet(True)
        metric.SetUseSampledPointSet(True)
        metric.SetMovingTransform(self._transform)
        # The moving image's gradient is taken where a point asks for it, not everywhere.
        metric.SetUseFixedImageGradientFilter(False)
        metric.SetUseMovingImageGradientFilter(False)
        # Threads add up their parts in the order in which they finish: no two runs would agree.
        metric.SetMaximumNumberOfWorkUnits(1)
        # A handful of points fall into bins of their own and seem to tell all about each other.
        self._fewest = bins // 2
        # Of an image of one value ITK cannot make a histogram.
        self._blank = fixed.is_constant or moving.is_constant
        if not self._blank:
            metric.Initialize()
        self._metric = metric

    def value(self, matrix: Tensor) -> tuple[float, int]:
        """Evaluate one transform.

        Args:
            matrix: ``(n + 1, n + 1)`` float64, from the fixed to the moving world, RAS+ mm.

        Returns:
            Mutual information (nats, 0 where too few points lie in both images), and the number of points that lie in
            both images.
        """
        return self._evaluate(matrix, self._metric.GetValue)

    def gradient(self, matrix: Tensor) -> tuple[float, int, Tensor]:
        """Evaluate one transform: what ``value`` returns, and the gradient of the mutual information with respect to
        the matrix.
        """
        information, overlap = self._evaluate(matrix, lambda: self._metric.GetDerivative(self._derivative))
        gradient = torch.zeros_like(matrix)
        if overlap > 0:
            # ITK minimizes -MI and calls the direction of descent its derivative.
            n = self.points.shape[1]
            flat = torch.tensor([self._derivative.GetElement(k) for k in range(n * n + n)], dtype=torch.float64)
            gradient[:n, :n], gradient[:n, n] = flat[: n * n].view(n, n), flat[n * n :]
        return information, overlap, flip_matrix(gradient)

    def _evaluate(self, matrix: Tensor, compute: Callable[[], object]) -> tuple[float, int]:
        if self._blank:
            return 0.0, 0
        self._transform.SetParameters(affine_parameters(matrix))
        try:
            compute()
        except RuntimeError:  # No point lies in both images, or in one of them all have the same value.
            return 0.0, 0
        overlap = self._metric.GetNumberOfValidPoints()
        return (0.0, 0) if overlap < self._fewest else (-self._metric.GetCurrentValue(), overlap)


def _draw(volume: Volume, samples: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    visible = torch.arange(volume.values.numel()) if volume.mask is None else volume.mask.flatten().nonzero()[:, 0]
    # In the order in which they lie in memory, which both images are then read in.
    voxels = visible[torch.randperm(len(visible), generator=random)[:samples].sort().values]
    index = torch.stack(torch.unravel_index(voxels, volume.grid.shape), dim=1)
    return volume.grid.index_to_world(index + torch.rand(index.shape, generator=random, dtype=torch.float64) - 0.5)
