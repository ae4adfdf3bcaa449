# SPDX-License-Identifier: Apache-2.0
"""Difference of two transforms, against motions that are made."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from regplugins.metrics import endpoint_error, motion_error
from regplugins.spatial import AffineTransform

CENTER = torch.tensor([20.0, -7.0, 31.0], dtype=torch.float64)


def rotated_about(
    center: torch.Tensor, rotation: np.ndarray, shift: torch.Tensor, scale: float = 1.0
) -> AffineTransform:
    n = len(center)
    matrix = torch.eye(n + 1, dtype=torch.float64)
    matrix[:n, :n] = scale * torch.from_numpy(rotation)
    matrix[:n, n] = center - matrix[:n, :n] @ center + shift
    return AffineTransform(matrix)


@pytest.mark.parametrize("scale", [1.0, 1.3, -0.8])
def test_angle_and_shift_are_those_of_the_motion(scale):
    """From any transform; neither a scaling about the center nor a reflection turns anything."""
    true = rotated_about(CENTER, Rotation.from_rotvec([0.5, 1.0, -0.3]).as_matrix(), torch.tensor([3.0, 1.0, 2.0]))
    turn = Rotation.from_rotvec(np.radians(25) * np.array([0.6, 0.0, 0.8]))
    shift = torch.tensor([2.0, -3.0, 6.0], dtype=torch.float64)
    found = rotated_about(true(CENTER), turn.as_matrix(), shift, scale) @ true
    assert motion_error(found, true, CENTER) == pytest.approx({"rotation_degrees": 25.0, "translation_mm": 7.0})


def test_two_dimensions():
    turn = Rotation.from_rotvec([0, 0, 0.2]).as_matrix()[:2, :2]
    found = rotated_about(CENTER[:2], turn, torch.tensor([3.0, 4.0]))
    error = motion_error(found, AffineTransform.identity(2), CENTER[:2])
    assert error == pytest.approx({"rotation_degrees": np.degrees(0.2), "translation_mm": 5.0})


def test_distances_are_those_of_mapped_points():
    """A scaling moves a point by its distance from the center times the change."""
    scaling = rotated_about(CENTER, np.eye(3), torch.zeros(3, dtype=torch.float64), 1.1)
    points = CENTER + torch.linspace(0, 100, 101, dtype=torch.float64)[:, None] * torch.tensor([0.0, 1.0, 0.0])
    error = endpoint_error(scaling, AffineTransform.identity(3), points)
    assert error == pytest.approx({"mean": 5.0, "p95": 9.5})
