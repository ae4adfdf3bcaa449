# SPDX-License-Identifier: Apache-2.0
"""Difference of two transforms: distances between mapped points, rotation and translation."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.linalg import polar
from scipy.spatial.transform import Rotation
from torch import Tensor

from regplugins.spatial import AffineTransform, SpatialTransform


def distance_statistics(distances: Tensor) -> dict[str, float]:
    """Mean and 95th percentile of distances, by the names ``mean`` and ``p95``."""
    # PyTorch's quantile is limited to 16 million values.
    percentile = float(np.quantile(distances.numpy(), 0.95)) if distances.numel() else float("nan")
    return {"mean": float(distances.mean()), "p95": percentile}


def endpoint_error(found: SpatialTransform, true: SpatialTransform, points: Tensor) -> dict[str, float]:
    """``distance_statistics`` between points ``(number, n)``, world mm, under two transforms."""
    return distance_statistics((found(points) - true(points)).norm(dim=1))


def motion_error(found: AffineTransform, true: AffineTransform, center: Tensor) -> dict[str, float]:
    """Rotation and translation between two affine transforms.

    Args:
        found, true: in the same world.
        center: point ``(n,)``, world mm, at which the translation is taken.

    Returns:
        ``rotation_degrees``, the angle of the orthogonal factor of the polar decomposition, without reflection, and
        ``translation_mm``.
    """
    linear = np.eye(3)
    n = found.ndim
    linear[:n, :n] = (found.matrix[:-1, :-1] @ torch.linalg.inv(true.matrix[:-1, :-1])).numpy()
    rotation, _ = polar(linear)
    turn = Rotation.from_matrix(rotation * np.linalg.det(rotation))
    shift = float((found(center) - true(center)).norm())
    return {"rotation_degrees": math.degrees(turn.magnitude()), "translation_mm": shift}
