# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms as six numbers, and back."""

from __future__ import annotations

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from regplugins.spatial.transforms import AffineTransform

# Turns about the world's x, then y, then z: R = Rz Ry Rx.
_ORDER = "xyz"
_RIGID = 1e-4


def rigid_transform(parameters: Tensor, center: Tensor) -> AffineTransform:
    """``x -> R (x - center) + center + shift``.

    Args:
        parameters: ``(6,)``: angles about the world's x, y and z axis, in that order, the axes staying where they are
            (``R = Rz Ry Rx``), degrees; and the shift along them, mm.
        center: ``(3,)`` world mm.
    """
    values = parameters.detach().cpu().double()
    rotation = torch.from_numpy(Rotation.from_euler(_ORDER, values[:3].numpy(), degrees=True).as_matrix())
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = center + values[3:] - rotation @ center.double()
    return AffineTransform(matrix)


def rigid_parameters(transform: AffineTransform, center: Tensor) -> Tensor:
    """The six numbers ``(6,)`` of which ``rigid_transform`` makes a transform; the second angle within 90 degrees.

    Raises:
        ValueError: the transform is not 3-D, or does more than turn and shift.
    """
    matrix = transform.matrix
    rotation = matrix[:3, :3]
    turns = matrix.shape == (4, 4) and (rotation @ rotation.T - torch.eye(3).double()).abs().max() < _RIGID
    if not turns or torch.linalg.det(rotation) < 0:
        raise ValueError(f"expected a rigid 3-D transform, got {matrix.tolist()}")
    angles = torch.from_numpy(Rotation.from_matrix(rotation.numpy()).as_euler(_ORDER, degrees=True))
    return torch.cat([angles, transform(center.double()) - center])
