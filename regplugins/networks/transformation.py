# SPDX-License-Identifier: Apache-2.0
"""An affine and a non-rigid transform of features of two images (Wang et al. 2019, arXiv:1907.05062, Fig. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regplugins.checks import boolean
from regplugins.networks.blocks import Regression
from regplugins.networks.synthesis import convolution
from regplugins.spatial import identity_grid, warp


class AffineNetwork(nn.Module):
    """``T_af``: features of a moving and a fixed image to an affine map that cannot collapse.

    Two convolutions of stride 2, their moments over the image, two linear layers. The matrix is the identity and
    something bounded such that it stays diagonally dominant: its determinant is positive.

    Args:
        spatial_dims: 2 or 3.
        channels: of the features of one image.
        moments: average the features times either coordinate, too, normalised over the image; the paper averages the
            features alone. What moves on average is the shift; a rotation or a scaling shows in where.

    Raises:
        TypeError: ``moments`` is no boolean.
    """

    def __init__(self, spatial_dims: int, channels: int, moments: bool = True) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.moments = boolean("moments", moments)
        # Without normalisation: the average over the image of what was normalised over it tells nothing.
        self.localisation = nn.Sequential(
            *[convolution(spatial_dims, width, channels, strides=2, norm=None) for width in (2 * channels, channels)]
        )
        self.hidden = nn.Linear(channels * (1 + self.moments * spatial_dims), channels)
        nn.init.kaiming_uniform_(self.hidden.weight, nonlinearity="relu")
        self.parameters_of = nn.Linear(channels, spatial_dims * (spatial_dims + 1))
        nn.init.zeros_(self.parameters_of.weight)
        nn.init.zeros_(self.parameters_of.bias)
        # The rows of the matrix less the identity sum up to less than one. In 3-D that is 17 degrees, 0.7 to 1.3 times.
        self.change = 0.9 / spatial_dims
        # How far the image is shifted at most, in units of its largest size.
        self.shift = 0.25

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """
        Args:
            moving: features ``(B, channels, *spatial / 4)``.
            fixed: the same.

        Returns:
            ``(B, n, n + 1)``: the matrix and the shift, in units of the image's largest size, of a map about the
            image's centre.
        """
        n = self.spatial_dims
        features = self.localisation(torch.cat([moving, fixed], dim=1)).float()
        averages = features.flatten(2).mean(dim=2)
        if self.moments:
            places, flat = _places(features).t(), features.flatten(2)
            variance, mean = torch.var_mean(flat, dim=2, correction=0, keepdim=True)
            # Normalised over the image, for where a channel responds, not how much: else what every head has in common
            # outweighs a shift a hundredfold, and it takes as many more steps to learn.
            first = torch.matmul((flat - mean) / (variance + 1e-5).sqrt(), places) / places.shape[0]
            averages = torch.cat([averages, first.flatten(1)], dim=1)
        bounded = torch.tanh(self.parameters_of(torch.relu(self.hidden(averages)))).view(-1, n, n + 1)
        matrix = torch.eye(n, device=bounded.device) + self.change * bounded[:, :, :n]
        return torch.cat([matrix, self.shift * bounded[:, :, n:]], dim=2)


def _places(features: Tensor) -> Tensor:
    """Coordinates of a grid's voxels about its centre, ``(n, voxels)``, in units in which their mean square is 1."""
    grid = identity_grid(list(features.shape[2:]), features.device, features.dtype).flatten(1)
    centred = grid - grid.mean(dim=1, keepdim=True)
    return centred / centred.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)


class NonRigidNetwork(nn.Module):
    """``T_nr``: features of an affinely warped moving image and of a fixed one to a displacement.

    Args:
        spatial_dims: 2 or 3.
        channels: of the features of one image.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.moving = convolution(spatial_dims, channels, channels)
        self.fixed = convolution(spatial_dims, channels, channels)
        self.both = nn.Sequential(
            convolution(spatial_dims, 2 * channels, channels), convolution(spatial_dims, channels, channels)
        )
        self.regression = Regression(spatial_dims, channels)
        # How far a voxel is moved at most, in sizes of the image: one in normalised coordinates.
        self.reach = 0.5

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """
        Args:
            moving: features ``(B, channels, *spatial / 4)`` after the affine map.
            fixed: features of the same shape.

        Returns:
            ``(B, n, *spatial / 4)`` displacement in voxels of that grid.
        """
        features = self.both(torch.cat([self.moving(moving), self.fixed(fixed)], dim=1))
        normalised = torch.tanh(self.regression(features))
        shape = torch.tensor(normalised.shape[2:], device=normalised.device).to(normalised.dtype)
        return (normalised.movedim(1, -1) * (self.reach * shape)).movedim(-1, 1)


class TransformationNetwork(nn.Module):
    """``T``: an affine and a non-rigid part, ``φ = φ_af ∘ φ_nr``, from features of a moving and a fixed image.

    Args:
        spatial_dims: 2 or 3.
        channels: of the features of one image.
        moments: of the affine part.
    """

    def __init__(self, spatial_dims: int, channels: int, moments: bool = True) -> None:
        super().__init__()
        self.affine = AffineNetwork(spatial_dims, channels, moments)
        self.nonrigid = NonRigidNetwork(spatial_dims, channels)

    def forward(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            moving: features ``(B, channels, *spatial / 4)``.
            fixed: the same.

        Returns:
            Affine parameters ``(B, n, n + 1)`` and the non-rigid displacement ``(B, n, *spatial / 4)`` in voxels of
            that grid.
        """
        affine = self.affine(moving, fixed)
        still = torch.zeros_like(moving[:, : affine.shape[1]], dtype=torch.float32)
        return affine, self.nonrigid(warp(moving, after_affine(affine, still, 4)), fixed)


def after_affine(affine: Tensor, ddf: Tensor, step: int = 1) -> Tensor:
    """Displacement of an affine map after that of a field: ``φ_af ∘ φ_nr``, without interpolation.

    Args:
        affine: ``(B, n, n + 1)``, matrix and shift, in units of an image's largest size, of a map about the image's
            centre.
        ddf: ``(B, n, *spatial / step)`` in voxels of a grid whose voxel ``i`` lies on voxel ``step * i`` of the image.
        step: 1 for the image's own grid.

    Returns:
        ``(B, n, *spatial / step)`` in the same voxels.
    """
    shape = ddf.shape[2:]
    n = len(shape)
    grid = identity_grid(list(shape), ddf.device, ddf.dtype)
    sizes = torch.tensor(shape, device=ddf.device).to(ddf.dtype)
    centre = ((step * sizes - 1) / (2 * step)).view(n, 1)
    identity = torch.eye(n, device=ddf.device, dtype=ddf.dtype)
    centred = (grid + ddf).flatten(2) - centre
    change = torch.matmul(affine[:, :, :n] - identity, centred) + affine[:, :, n:] * sizes.max()
    return ddf + change.view(ddf.shape)
