# SPDX-License-Identifier: Apache-2.0
"""An affine and a non-rigid transform of features of two images (Wang et al. 2019, arXiv:1907.05062, Fig. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regplugins.checks import boolean
from regplugins.networks.blocks import Regression
from regplugins.networks.synthesis import convolution
from regplugins.spatial import identity_grid, warp

# The rows of a matrix less the identity sum up to less than one: it is diagonally dominant, its determinant positive.
# In 3-D that is 17 degrees, 0.7 to 1.3 times along an axis.
_MAX_DERIVATIVE = 0.9


class AffineKeypoints(nn.Module):
    """``T_af`` (ours): features of a moving and a fixed image to the affine map between points that it finds in both.

    Two convolutions, the same ones of either image, respond to one thing in each channel; where it is, is the mean
    place under a softmax over the image; the map is that of least squares between these points (as in KeyMorph: Wang
    et al. 2023, arXiv:2304.09941). What is learned are points; what a rotation is need not be. Each point is looked for
    about a place of its own, so that they are apart from the beginning: from points that lie together no matrix can be
    told, and none is learned. The matrix is bounded: it cannot collapse.

    Args:
        spatial_dims: 2 or 3.
        channels: of the features of one image, and how many points.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.localization = nn.Sequential(
            convolution(spatial_dims, channels, channels),
            convolution(spatial_dims, channels, channels, norm=None, act=None),
        )
        # From none, where every point of either image is in its place and the map the identity.
        self.sharpness = nn.Parameter(torch.zeros(()))
        # Of the parameter, which some tens of Adam's steps are to take to where points are found.
        self.scale = 10.0
        # The points' places, evenly all over, as fractions of the image's sizes about its center, and the standard
        # deviation of the window about each, in units of its largest size.
        even = torch.quasirandom.SobolEngine(spatial_dims).draw(channels + 1)[1:]
        self.places: Tensor
        self.register_buffer("places", 0.7 * (even - 0.5), persistent=False)
        self.window = 0.1
        # Of least squares, in squares of the image's largest size, for points that lie together.
        self.ridge = 1e-3
        self.max_derivative = _MAX_DERIVATIVE / spatial_dims

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """
        Args:
            moving: features ``(B, channels, *spatial / 4)``.
            fixed: the same.

        Returns:
            ``(B, n, n + 1)``: the matrix and the shift, in units of the image's largest size, of a map about the
            image's center.
        """
        n = self.spatial_dims
        targets, sources = self.centers(moving), self.centers(fixed)
        middle = sources.mean(dim=1, keepdim=True)
        centered = sources - middle
        moved = targets - targets.mean(dim=1, keepdim=True) - centered
        # Products and sums, not matmul, which autocast would round.
        square = (centered.unsqueeze(3) * centered.unsqueeze(2)).mean(dim=1)
        mixed = (centered.unsqueeze(3) * moved.unsqueeze(2)).mean(dim=1)
        identity = torch.eye(n, device=square.device, dtype=square.dtype)
        system = torch.cat([square + self.ridge * identity, mixed], dim=2)
        for axis in range(n):  # Gauss and Jordan; positive definite, hence without a search for pivots
            pivot = system[:, axis : axis + 1] / system[:, axis : axis + 1, axis : axis + 1]
            system = system - (system[:, :, axis : axis + 1] - identity[:, axis : axis + 1]) * pivot
        change = system[:, :, n:].transpose(1, 2).clamp(-self.max_derivative, self.max_derivative)
        shift = targets.mean(dim=1) - middle.squeeze(1) - (change * middle).sum(dim=2)
        return torch.cat([identity + change, shift.unsqueeze(2)], dim=2)

    def centers(self, features: Tensor) -> Tensor:
        """
        Args:
            features: of an image, ``(B, channels, *spatial / 4)``.

        Returns:
            ``(B, channels, n)``: a point for each channel, about the image's center in units of its largest size.
        """
        shape = list(features.shape[2:])
        responses = self.scale * self.sharpness * self.localization(features).float().flatten(2)
        largest = float(max(shape))
        grid = _centered(shape, responses, 4) / largest
        middles = self.places * (torch.tensor(shape, device=grid.device).to(grid.dtype) / largest)
        distances = (grid.unsqueeze(0) - middles.unsqueeze(2)).square().sum(dim=1)
        where = (responses - distances / (2 * self.window**2)).softmax(dim=2)
        return (where.unsqueeze(2) * grid).sum(dim=3)


class AffineRegression(nn.Module):
    """``T_af`` as published: features of a moving and a fixed image to an affine map that cannot collapse.

    Two convolutions of stride 2, averages over the image, two linear layers.

    Args:
        spatial_dims: 2 or 3.
        channels: of the features of one image.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        # Without normalization: the average over the image of what was normalized over it tells nothing.
        self.localization = nn.Sequential(
            *[convolution(spatial_dims, width, channels, strides=2, norm=None) for width in (2 * channels, channels)]
        )
        self.hidden = nn.Linear(channels, channels)
        nn.init.kaiming_uniform_(self.hidden.weight, nonlinearity="relu")
        self.parameters_of = nn.Linear(channels, spatial_dims * (spatial_dims + 1))
        nn.init.zeros_(self.parameters_of.weight)
        nn.init.zeros_(self.parameters_of.bias)
        # How far the image is shifted at most, in units of its largest size.
        self.shift = 0.25
        self.max_derivative = _MAX_DERIVATIVE / spatial_dims

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """
        Args:
            moving: features ``(B, channels, *spatial / 4)``.
            fixed: the same.

        Returns:
            ``(B, n, n + 1)``, as of ``AffineKeypoints``.
        """
        n = self.spatial_dims
        averages = self.localization(torch.cat([moving, fixed], dim=1)).float().flatten(2).mean(dim=2)
        bounded = torch.tanh(self.parameters_of(torch.relu(self.hidden(averages)))).view(-1, n, n + 1)
        matrix = torch.eye(n, device=bounded.device) + self.max_derivative * bounded[:, :, :n]
        return torch.cat([matrix, self.shift * bounded[:, :, n:]], dim=2)


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
        # How far a voxel is moved at most, in sizes of the image: one in normalized coordinates.
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
        normalized = torch.tanh(self.regression(features))
        shape = torch.tensor(normalized.shape[2:], device=normalized.device).to(normalized.dtype)
        return (normalized.movedim(1, -1) * (self.reach * shape)).movedim(-1, 1)


class TransformationNetwork(nn.Module):
    """``T``: an affine and a non-rigid part, ``φ = φ_af ∘ φ_nr``, from features of a moving and a fixed image.

    Args:
        spatial_dims: 2 or 3.
        channels: of the features of one image.
        keypoints: the affine part is ``AffineKeypoints``, not ``AffineRegression``.

    Raises:
        TypeError: ``keypoints`` is no boolean.
    """

    def __init__(self, spatial_dims: int, channels: int, keypoints: bool = True) -> None:
        super().__init__()
        part = AffineKeypoints if boolean("keypoints", keypoints) else AffineRegression
        self.affine = part(spatial_dims, channels)
        self.nonrigid = NonRigidNetwork(spatial_dims, channels)

    def forward(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            moving: features ``(B, channels, *spatial / 4)``.
            fixed: the same.

        Returns:
            Affine parameters ``(B, n, n + 1)``, the non-rigid displacement ``(B, n, *spatial / 4)`` in voxels of that
            grid, and the moving features through the affine part.
        """
        affine = self.affine(moving, fixed)
        still = torch.zeros_like(moving[:, : affine.shape[1]], dtype=torch.float32)
        moved = warp(moving, after_affine(affine, still, 4))
        return affine, self.nonrigid(moved, fixed), moved


def after_affine(affine: Tensor, ddf: Tensor, step: int = 1) -> Tensor:
    """Displacement of an affine map after that of a field: ``φ_af ∘ φ_nr``, without interpolation.

    Args:
        affine: ``(B, n, n + 1)``, matrix and shift, in units of an image's largest size, of a map about the image's
            center.
        ddf: ``(B, n, *spatial / step)`` in voxels of a grid whose voxel ``i`` lies on voxel ``step * i`` of the image.
        step: 1 for the image's own grid.

    Returns:
        ``(B, n, *spatial / step)`` in the same voxels.
    """
    shape = ddf.shape[2:]
    n = len(shape)
    identity = torch.eye(n, device=ddf.device, dtype=ddf.dtype)
    centered = _centered(list(shape), ddf, step) + ddf.flatten(2)
    change = affine[:, :, n:] * float(max(shape))
    for axis in range(n):  # not matmul, which autocast would round
        change = change + (affine[:, :, axis : axis + 1] - identity[:, axis : axis + 1]) * centered[:, axis : axis + 1]
    return ddf + change.view(ddf.shape)


def _centered(shape: list[int], like: Tensor, step: int) -> Tensor:
    """A grid's voxels about the center of the image on whose every ``step``-th voxel they lie, ``(n, voxels)``."""
    grid = identity_grid(shape, like.device, like.dtype).flatten(1)
    sizes = torch.tensor(shape, device=like.device).to(like.dtype)
    return grid - ((step * sizes - 1) / (2 * step)).view(-1, 1)
