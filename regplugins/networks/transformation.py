# SPDX-License-Identifier: Apache-2.0
"""Affine and non-rigid transforms from features of two images (Wang et al. 2019, arXiv:1907.05062, Fig. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regplugins.checks import boolean
from regplugins.networks.blocks import Regression
from regplugins.networks.synthesis import convolution
from regplugins.spatial import identity_grid, upsample_ddf, warp

# Bound of the row sums of a matrix less the identity: it is diagonally dominant, with a positive determinant. In 3-D it
# allows 17 degrees and scaling by 0.7 to 1.3.
_MAX_DERIVATIVE = 0.9


class AffineKeypoints(nn.Module):
    """``T_af`` (ours): affine map between keypoints found in the features of a moving and a fixed image.

    Two convolutions, shared by both images, give a response per channel; its keypoint is the mean position under a
    softmax over the image. The map is the least-squares fit between keypoints (as in KeyMorph: Wang et al. 2023,
    arXiv:2304.09941). Each keypoint is searched in a window of its own, since no matrix can be learned from keypoints
    at one position. The matrix is bounded, so that it cannot collapse.

    Args:
        channels: channels of the features of one image, and number of keypoints.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.localization = nn.Sequential(
            convolution(spatial_dims, channels, channels),
            convolution(spatial_dims, channels, channels, norm=None, act=None),
        )
        # Starts at zero, where all keypoints are in the middle of their windows and the map is the identity.
        self.sharpness = nn.Parameter(torch.zeros(()))
        # Scale of the parameter, so that some tens of Adam's steps suffice.
        self.scale = 10.0
        # Middles of the windows as fractions of the image's sizes about its center, and their standard deviation in
        # units of the largest size.
        even = torch.quasirandom.SobolEngine(spatial_dims).draw(channels + 1)[1:]
        self.places: Tensor
        self.register_buffer("places", 0.7 * (even - 0.5), persistent=False)
        self.window = 0.1
        # Ridge of the least squares, in squares of the image's largest size.
        self.ridge = 1e-3
        self.max_derivative = _MAX_DERIVATIVE / spatial_dims

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Return ``(B, n, n + 1)``: matrix and shift of a map about the image's center, in units of its largest size.

        ``moving`` and ``fixed`` are features ``(B, channels, *spatial / 4)``.
        """
        n = self.spatial_dims
        targets, sources = self.centers(moving), self.centers(fixed)
        middle = sources.mean(dim=1, keepdim=True)
        centered = sources - middle
        moved = targets - targets.mean(dim=1, keepdim=True) - centered
        # Products and sums, since autocast rounds matmul.
        square = (centered.unsqueeze(3) * centered.unsqueeze(2)).mean(dim=1)
        mixed = (centered.unsqueeze(3) * moved.unsqueeze(2)).mean(dim=1)
        identity = torch.eye(n, device=square.device, dtype=square.dtype)
        system = torch.cat([square + self.ridge * identity, mixed], dim=2)
        for axis in range(n):  # Gauss-Jordan elimination; positive definite, hence without pivoting
            pivot = system[:, axis : axis + 1] / system[:, axis : axis + 1, axis : axis + 1]
            system = system - (system[:, :, axis : axis + 1] - identity[:, axis : axis + 1]) * pivot
        change = system[:, :, n:].transpose(1, 2).clamp(-self.max_derivative, self.max_derivative)
        shift = targets.mean(dim=1) - middle.squeeze(1) - (change * middle).sum(dim=2)
        return torch.cat([identity + change, shift.unsqueeze(2)], dim=2)

    def centers(self, features: Tensor) -> Tensor:
        """Keypoints ``(B, channels, n)`` of features, about the image's center in units of its largest size."""
        shape = list(features.shape[2:])
        responses = self.scale * self.sharpness * self.localization(features).float().flatten(2)
        largest = float(max(shape))
        grid = _centered(shape, responses, 4) / largest
        middles = self.places * (torch.tensor(shape, device=grid.device).to(grid.dtype) / largest)
        distances = (grid.unsqueeze(0) - middles.unsqueeze(2)).square().sum(dim=1)
        probability = (responses - distances / (2 * self.window**2)).softmax(dim=2)
        return (probability.unsqueeze(2) * grid).sum(dim=3)


class AffineRegression(nn.Module):
    """``T_af`` as published: two convolutions of stride 2, averages over the image, two linear layers; bounded.

    Arguments as of ``AffineKeypoints``.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        # Without normalization over the image, whose average would be constant.
        self.localization = nn.Sequential(
            *[convolution(spatial_dims, width, channels, strides=2, norm=None) for width in (2 * channels, channels)]
        )
        self.hidden = nn.Linear(channels, channels)
        nn.init.kaiming_uniform_(self.hidden.weight, nonlinearity="relu")
        self.parameters_of = nn.Linear(channels, spatial_dims * (spatial_dims + 1))
        nn.init.zeros_(self.parameters_of.weight)
        nn.init.zeros_(self.parameters_of.bias)
        # Largest shift, in units of the image's largest size.
        self.shift = 0.25
        self.max_derivative = _MAX_DERIVATIVE / spatial_dims

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Return ``(B, n, n + 1)`` as ``AffineKeypoints`` does."""
        n = self.spatial_dims
        averages = self.localization(torch.cat([moving, fixed], dim=1)).float().flatten(2).mean(dim=2)
        bounded = torch.tanh(self.parameters_of(torch.relu(self.hidden(averages)))).view(-1, n, n + 1)
        matrix = torch.eye(n, device=bounded.device) + self.max_derivative * bounded[:, :, :n]
        return torch.cat([matrix, self.shift * bounded[:, :, n:]], dim=2)


class NonRigidNetwork(nn.Module):
    """``T_nr``: displacement from features of an affinely warped moving image and of a fixed image.

    Arguments as of ``AffineKeypoints``.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.moving = convolution(spatial_dims, channels, channels)
        self.fixed = convolution(spatial_dims, channels, channels)
        self.both = nn.Sequential(
            convolution(spatial_dims, 2 * channels, channels), convolution(spatial_dims, channels, channels)
        )
        self.regression = Regression(spatial_dims, channels)
        # Largest displacement, as a fraction of the image's sizes: one in normalized coordinates.
        self.reach = 0.5

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Return the displacement ``(B, n, *spatial / 4)`` in voxels of the features' grid."""
        features = self.both(torch.cat([self.moving(moving), self.fixed(fixed)], dim=1))
        normalized = torch.tanh(self.regression(features))
        shape = torch.tensor(normalized.shape[2:], device=normalized.device).to(normalized.dtype)
        return (normalized.movedim(1, -1) * (self.reach * shape)).movedim(-1, 1)


class TransformationNetwork(nn.Module):
    """``T``: affine and non-rigid part, ``φ = φ_af ∘ φ_nr``, from features of a moving and a fixed image.

    Args:
        channels: channels of the features of one image.
        keypoints: the affine part is ``AffineKeypoints``, else ``AffineRegression``; a boolean, else ``TypeError``.
    """

    def __init__(self, spatial_dims: int, channels: int, keypoints: bool = True) -> None:
        super().__init__()
        part = AffineKeypoints if boolean("keypoints", keypoints) else AffineRegression
        self.affine = part(spatial_dims, channels)
        self.nonrigid = NonRigidNetwork(spatial_dims, channels)

    def forward(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return affine parameters, the non-rigid displacement and the affinely warped moving features.

        They are ``(B, n, n + 1)``, ``(B, n, *spatial / 4)`` in voxels of the features' grid, and
        ``(B, channels, *spatial / 4)``, as the features of either image.
        """
        affine = self.affine(moving, fixed)
        zero = torch.zeros_like(moving[:, : affine.shape[1]], dtype=torch.float32)
        moved = warp(moving, after_affine(affine, zero, 4))
        return affine, self.nonrigid(moved, fixed), moved

    def ddf(self, moving: Tensor, fixed: Tensor, affine_alone: bool) -> Tensor:
        """Displacement ``(B, n, *spatial)`` in voxels of the image: of both parts, or of the affine one alone."""
        if affine_alone:
            affine = self.affine(moving, fixed)
            shape = [moving.shape[0], affine.shape[1]] + [4 * size for size in moving.shape[2:]]
            return after_affine(affine, torch.zeros(shape, device=affine.device, dtype=affine.dtype))
        affine, nonrigid, _ = self(moving, fixed)
        return after_affine(affine, upsample_ddf(nonrigid, 4))


def after_affine(affine: Tensor, ddf: Tensor, step: int = 1) -> Tensor:
    """Displacement of an affine map after that of a field, ``φ_af ∘ φ_nr``, without interpolation.

    ``affine``, ``(B, n, n + 1)``, holds matrix and shift of a map about the image's center, in units of its largest
    size. ``ddf`` and the result are ``(B, n, *spatial / step)`` in voxels of a grid whose voxel ``i`` lies on voxel
    ``step * i`` of the image.
    """
    shape = ddf.shape[2:]
    n = len(shape)
    identity = torch.eye(n, device=ddf.device, dtype=ddf.dtype)
    centered = _centered(list(shape), ddf, step) + ddf.flatten(2)
    change = affine[:, :, n:] * float(max(shape))
    for axis in range(n):  # autocast rounds matmul
        change = change + (affine[:, :, axis : axis + 1] - identity[:, axis : axis + 1]) * centered[:, axis : axis + 1]
    return ddf + change.view(ddf.shape)


def _centered(shape: list[int], like: Tensor, step: int) -> Tensor:
    """Voxel positions ``(n, voxels)`` of a grid on every ``step``-th voxel of an image, about the image's center."""
    grid = identity_grid(shape, like.device, like.dtype).flatten(1)
    sizes = torch.tensor(shape, device=like.device).to(like.dtype)
    return grid - ((step * sizes - 1) / (2 * step)).view(-1, 1)
