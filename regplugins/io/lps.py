# SPDX-License-Identifier: Apache-2.0
"""Conversion between RAS+ and LPS+ world coordinates. Each function is its own inverse."""

from __future__ import annotations

import torch
from torch import Tensor


def flip_points(points: Tensor) -> Tensor:
    """Points or vectors ``(..., n)`` with the first two coordinates negated."""
    return points * _signs(points.shape[-1]).to(points)


def flip_matrix(matrix: Tensor) -> Tensor:
    """Homogeneous matrix ``(n + 1, n + 1)`` of a transform between two worlds."""
    signs = torch.cat([_signs(matrix.shape[0] - 1), torch.ones(1)]).to(matrix)
    return signs[:, None] * matrix * signs + 0.0  # no negative zeros in the files


def flip_affine(affine: Tensor) -> Tensor:
    """Affine ``(n + 1, n + 1)`` from voxel indices to a world."""
    return torch.cat([flip_points(affine[:-1].T).T, affine[-1:]])


def _signs(n: int) -> Tensor:
    return torch.tensor([-1.0, -1.0, 1.0][:n])
