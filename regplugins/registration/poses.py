# SPDX-License-Identifier: Apache-2.0
"""Rigid starts of a registration: rotations about the centers of mass, and principal axes."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from regplugins.registration.centers import center_of_mass, weighted_foreground
from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform

# Degrees; rigid registration by mutual information does not converge from farther away.
_STEP = 30.0


def principal_axes(volume: Volume) -> Tensor:
    """Axes of the ellipsoid of inertia of an image's foreground, weighted as in ``center_of_mass``.

    Returns:
        ``(n, n)`` float64, unit vectors as columns, RAS+, the longest axis first, of positive determinant.
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

    Returns:
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
    vectors = torch.deg2rad(vectors[vectors.norm(dim=1) <= 180])
    skew = torch.zeros(len(vectors), n, n, dtype=torch.float64)
    rows, columns = torch.triu_indices(n, n, 1)
    skew[:, rows, columns] = vectors
    return torch.matrix_exp(skew - skew.mT)
