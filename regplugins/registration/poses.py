# SPDX-License-Identifier: Apache-2.0
"""Rigid starts of a registration: rotations about the centers of mass, and principal axes."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from regplugins.registration.centers import center_of_mass, weighted_foreground
from regplugins.registration.volume import Volume

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


def rotated_poses(fixed: Volume, moving: Volume) -> Tensor:
    """Rigid transforms that align the centers of mass, with rotations 30 degrees apart and by principal axes.

    Principal axes have no sign: they give four proper rotations in 3-D and two in 2-D (Islam et al. 2021 take one).

    Returns:
        ``(number, n + 1, n + 1)`` from the fixed to the moving world, RAS+ mm; 929 in 3-D, 15 in 2-D.
    """
    a, b = principal_axes(fixed), principal_axes(moving)
    signs = torch.tensor([s for s in product((1.0, -1.0), repeat=len(a)) if math.prod(s) > 0], dtype=torch.float64)
    rotations = torch.cat([_rotations(len(a)), b @ torch.diag_embed(signs) @ a.T])
    return rotations_about(rotations, center_of_mass(fixed), center_of_mass(moving))


def rotations_about(rotations: Tensor, origin: Tensor, target: Tensor) -> Tensor:
    """Rigid transforms ``(B, n + 1, n + 1)`` with rotations ``(B, n, n)`` that map ``origin`` to ``target``, mm."""
    n = rotations.shape[1]
    matrices = torch.eye(n + 1, dtype=torch.float64).repeat(len(rotations), 1, 1)
    matrices[:, :n, :n] = rotations
    matrices[:, :n, n] = target - rotations @ origin
    return matrices


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
