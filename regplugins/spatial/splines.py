# SPDX-License-Identifier: Apache-2.0
"""Uniform cubic B-splines on the voxels of an array."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def spline_basis(size: int, step: float) -> Tensor:
    """Values of the control points' splines at the voxels of one axis.

    Args:
        size: number of voxels.
        step: control points per voxel; the second control point lies on voxel 0.

    Returns:
        ``(size, control points)`` float64.
    """
    from scipy.interpolate import BSpline  # a tenth of the start of a command on transform files

    positions = np.arange(size) * step
    count = math.floor(positions[-1]) + 4
    knots = np.arange(-3, count + 1)  # spline k has its support between the knots k - 3 and k + 1
    return torch.from_numpy(BSpline.design_matrix(positions, knots.astype(float), 3).toarray())


def spline_values(coefficients: Tensor, bases: Sequence[Tensor]) -> Tensor:
    """Sum of splines, each weighted by its coefficient.

    Args:
        coefficients: ``(..., *control points)``.
        bases: ``spline_basis`` of each of the last axes.

    Returns:
        ``(..., *sizes)``.
    """
    for axis, basis in enumerate(bases, start=-len(bases)):
        coefficients = torch.tensordot(coefficients, basis, dims=([axis], [1])).movedim(-1, axis)
    return coefficients
