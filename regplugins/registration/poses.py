# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms from which a registration may start: turned about the centers, or by the principal axes."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from regplugins.registration.centers import center_of_mass, weighted_foreground
from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform

# Degrees: from further away a registration by mutual information does not find back to the truth.
_STEP = 30.0


def principal_axes(volume: Volume) -> Tensor:
    """Axes of the ellipsoid of inertia of an image's foreground.

    Args:
        volume: image; what counts in it is as for ``center_of_mass``.

    Returns:
        ``(n, n)`` float64, unit vectors as columns, RAS+, the longest axis first, of positive determinant.
    """
    points, weights = weighted_foreground(volume)
    offsets = points - weights @ points / weights.sum()
    _, axes = torch.linalg.eigh((offsets * weights[:, None]).T @ offsets)
    axes = axes.flip(1)
    axes[:, -1] *= torch.linalg.det(axes).sign()
    return axes


def turned_poses(fixed: Volume, moving: Volume) -> list[AffineTransform]:
    """Rigid transforms that lay one center of mass onto the other, and the axes of one image somehow onto the other's.

    They hold rotations 30 degrees apart, and those that take the principal axes to one another:
    an axis has no direction, so that four proper rotations in 3-D and two in 2-D fit (Islam et al. 2021 take one of
    them).

    Returns:
        From the fixed to the moving world, RAS+ mm; 929 in 3-D, 15 in 2-D.
    """
    a, b = principal_axes(fixed), principal_axes(moving)
    signs = [torch.tensor(s, dtype=torch.float64) for s in product((1.0, -1.0), repeat=len(a))]
    rotations = [*_rotations(len(a)), *(b @ torch.diag(s) @ a.T for s in signs if s.prod() > 0)]
    origin, target = center_of_mass(fixed), center_of_mass(moving)
    return [turned_about(rotation, origin, target) for rotation in rotations]


def turned_about(rotation: Tensor, origin: Tensor, target: Tensor) -> AffineTransform:
    """The transform of a rotation ``(n, n)`` that takes one point to another, ``(n,)`` each, mm."""
    matrix = torch.eye(len(rotation) + 1, dtype=torch.float64)
    matrix[:-1, :-1] = rotation
    matrix[:-1, -1] = target - rotation @ origin
    return AffineTransform(matrix)


def _rotations(n: int) -> Tensor:
    """Rotation matrices ``(number, n, n)`` whose rotation vectors are a lattice in a ball."""
    ticks = torch.arange(-180.0, 180.1, _STEP, dtype=torch.float64)
    parameters = n * (n - 1) // 2
    vectors = torch.cartesian_prod(*[ticks] * parameters).view(-1, parameters)
    vectors = torch.deg2rad(vectors[vectors.norm(dim=1) <= 180])
    skew = torch.zeros(len(vectors), n, n, dtype=torch.float64)
    rows, columns = torch.triu_indices(n, n, 1)
    skew[:, rows, columns] = vectors
    return torch.matrix_exp(skew - skew.mT)
