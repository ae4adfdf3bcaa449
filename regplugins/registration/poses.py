# SPDX-License-Identifier: Apache-2.0
"""Rigid starts of a registration: centers, rotations about the centers of mass, and principal axes."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform, Grid

# Degrees; rigid registration by mutual information does not converge from farther away.
_STEP = 30.0
_BINS = 256


def align_fields_of_view(fixed: Grid, moving: Grid) -> AffineTransform:
    """Translation from the center of the fixed field of view to that of the moving one, RAS+ mm."""
    return rotation_about(torch.eye(fixed.ndim, dtype=torch.float64), fixed.center, moving.center)


def align_centers_of_mass(fixed: Volume, moving: Volume) -> AffineTransform:
    """Translation from the fixed image's center of mass to that of the moving one, RAS+ mm."""
    origin, target = center_of_mass(fixed), center_of_mass(moving)
    return rotation_about(torch.eye(len(origin), dtype=torch.float64), origin, target)


def center_of_mass(volume: Volume) -> Tensor:
    """Center of mass of an image's weighted foreground, ``(n,)`` float64, RAS+ mm."""
    points, weights = weighted_foreground(volume)
    return weights @ points / weights.sum()


def weighted_foreground(volume: Volume) -> tuple[Tensor, Tensor]:
    """Points ``(number, n)``, RAS+ mm, and weights of an image's foreground voxels, float64; its mask is respected.

    Foreground lies above Otsu's threshold: in MR, and in CT, where air has -1000, that is the patient. A weight is the
    intensity above the mean of the background.
    """
    threshold = otsu_threshold(volume.masked_values)
    background = volume.masked_values[volume.masked_values <= threshold].mean()
    foreground = volume.values > threshold
    if volume.mask is not None:
        foreground &= volume.mask
    weights = (volume.values[foreground] - background).to(torch.float64)
    return volume.grid.index_to_world(foreground.nonzero().to(torch.float64)), weights


def otsu_threshold(values: Tensor) -> float:
    """Otsu's threshold of values, not all equal: at least the smallest and less than the largest.

    256 bins; Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9 (1979).
    """
    values = values.flatten()
    low, high = values.min().item(), values.max().item()
    counts = torch.histc(values, _BINS, low, high).to(torch.float64)
    edges = torch.linspace(low, high, _BINS + 1, dtype=torch.float64)
    centers = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum(0)[:-1]
    above = counts.sum() - below
    mass = (counts * centers).cumsum(0)
    between = below * above * (mass[:-1] / below - (mass[-1] - mass[:-1]) / above).square()
    return edges[1 + int(between.argmax())].item()


def principal_axes(volume: Volume) -> Tensor:
    """Axes of the ellipsoid of inertia of an image's foreground, weighted as in ``center_of_mass``.

    They are ``(n, n)`` float64, unit vectors as columns, RAS+, the longest axis first, of positive determinant.
    """
    points, weights = weighted_foreground(volume)
    offsets = points - weights @ points / weights.sum()
    _, axes = torch.linalg.eigh((offsets * weights[:, None]).T @ offsets)
    axes = axes.flip(1)
    axes[:, -1] *= torch.linalg.det(axes).sign()
    return axes


def rotated_poses(fixed: Volume, moving: Volume) -> list[AffineTransform]:
    """Rigid transforms that align the centers of mass, with rotations 30 degrees apart and by principal axes.

    Principal axes have no sign: they give four proper rotations in 3-D and two in 2-D (Islam et al. 2021 take one).
    From the fixed to the moving world, RAS+ mm; 929 in 3-D, 15 in 2-D.
    """
    a, b = principal_axes(fixed), principal_axes(moving)
    signs = [torch.tensor(s, dtype=torch.float64) for s in product((1.0, -1.0), repeat=len(a))]
    rotations = [*_rotations(len(a)), *(b @ torch.diag(s) @ a.T for s in signs if s.prod() > 0)]
    origin, target = center_of_mass(fixed), center_of_mass(moving)
    return [rotation_about(rotation, origin, target) for rotation in rotations]


def rotation_about(rotation: Tensor, origin: Tensor, target: Tensor) -> AffineTransform:
    """Rigid transform with a rotation ``(n, n)`` that maps ``origin`` to ``target``, ``(n,)`` each, mm."""
    matrix = torch.eye(len(rotation) + 1, dtype=torch.float64)
    matrix[:-1, :-1] = rotation
    matrix[:-1, -1] = target - rotation @ origin
    return AffineTransform(matrix)


def _rotations(n: int) -> Tensor:
    """Rotation matrices ``(number, n, n)`` with rotation vectors on a regular grid within a ball."""
    ticks = torch.arange(-180.0, 180.1, _STEP, dtype=torch.float64)
    parameters = n * (n - 1) // 2
    vectors = torch.cartesian_prod(*[ticks] * parameters).view(-1, parameters)
    return rotation_matrix(torch.deg2rad(vectors[vectors.norm(dim=1) <= 180]), n)


def rotation_matrix(vectors: Tensor, n: int) -> Tensor:
    """Rotation matrices ``(..., n, n)`` of rotation vectors ``(..., n (n - 1) / 2)``, radians."""
    skew = vectors.new_zeros(*vectors.shape[:-1], n, n)
    rows, columns = torch.triu_indices(n, n, 1)
    skew[..., rows, columns] = vectors
    return torch.matrix_exp(skew - skew.mT)
