# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms as six parameters."""

from __future__ import annotations

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from regplugins.spatial.transforms import AffineTransform

# Rotations about the world's x, then y, then z axis.
_ORDER = "xyz"
_TOLERANCE = 1e-4


def rigid_transform(parameters: Tensor, center: Tensor) -> AffineTransform:
    """Rigid transform ``x -> R (x - center) + center + shift`` with ``R = Rz Ry Rx``.

    Args:
        parameters: ``(6,)``: angles about the world's fixed x, y and z axes in degrees, and shifts along them in mm.
        center: ``(3,)`` world mm.
    """
    values = parameters.detach().cpu().double()
    rotation = torch.from_numpy(Rotation.from_euler(_ORDER, values[:3].numpy(), degrees=True).as_matrix())
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = center + values[3:] - rotation @ center.double()
    return AffineTransform(matrix)


def rigid_parameters(transform: AffineTransform, center: Tensor) -> Tensor:
    """Parameters ``(6,)`` of ``rigid_transform`` for a rigid transform; the second angle lies within 90 degrees.

    Raises:
        ValueError: if the transform is not 3-D and rigid.
    """
    matrix = transform.matrix
    rotation = matrix[:3, :3]
    orthogonal = matrix.shape == (4, 4) and (rotation @ rotation.T - torch.eye(3).double()).abs().max() < _TOLERANCE
    if not orthogonal or torch.linalg.det(rotation) < 0:
        raise ValueError(f"expected a rigid 3-D transform, got {matrix.tolist()}")
    angles = torch.from_numpy(Rotation.from_matrix(rotation.numpy()).as_euler(_ORDER, degrees=True))
    return torch.cat([angles, transform(center.double()) - center])
