# SPDX-License-Identifier: Apache-2.0
"""Rigid inferer against SciPy's rotations."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from regplugins.inferers import RigidInferer
from regplugins.spatial import AffineTransform, Grid
from tests.itk_truth import translation

SHAPE = (12, 10, 14)
PARAMETERS = (8.0, -5.0, 12.0, 3.0, -1.5, 2.0)


class Constant(nn.Module):
    """Always the same motion; keeps its inputs."""

    def __init__(self, parameters: tuple[float, ...] = PARAMETERS) -> None:
        super().__init__()
        self.parameters_given = torch.tensor(parameters)
        self.inputs: list[Tensor] = []

    def forward(self, pair: Tensor) -> Tensor:
        self.inputs.append(pair)
        return self.parameters_given.expand(len(pair), 6)


def pair_on(spacing: tuple[float, float, float], initial: AffineTransform | None = None) -> dict[str, Any]:
    """A pair whose grid lies obliquely in the world."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (10, 20, -15), degrees=True).as_matrix() * spacing
    affine[:3, 3] = 30, -20, 5
    return {
        "grid": Grid(SHAPE, torch.from_numpy(affine)),
        "initial": initial or AffineTransform.identity(3),
        "seconds": {},
    }


def moved(spacing: tuple[float, float, float], times: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """World points of some voxels, and where SciPy moves them: in mm along the grid's axes, about its center."""
    rotation = Rotation.from_euler("xyz", PARAMETERS[:3], degrees=True).as_matrix()  # lower case: fixed axes
    index = np.random.default_rng(0).uniform(0, SHAPE, (20, 3))
    center = (np.array(SHAPE) - 1) / 2 * spacing
    points = index * spacing
    for _ in range(times):
        points = (points - center) @ rotation.T + center + PARAMETERS[3:]
    affine = pair_on(spacing)["grid"].affine.numpy()
    world = [index @ affine[:3, :3].T + affine[:3, 3] for index in (index, points / spacing)]
    return world[0], world[1]


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 2.0, 1.5)])
def test_motion_about_the_center_of_an_oblique_grid(spacing):
    pair = pair_on(spacing, translation(5.0, -7.0, 9.0))
    transform = RigidInferer()(torch.rand(1, 2, *SHAPE), Constant(), pair)
    points, expected = moved(spacing)
    np.testing.assert_allclose(transform(torch.from_numpy(points)), expected + np.array([5, -7, 9]), atol=1e-4)
    assert pair["network_transform"] is transform
    assert pair["seconds"].keys() == {"network"}


def test_second_pass_gets_the_moved_image_and_adds_to_the_first():
    network, images = Constant(), torch.rand(1, 2, *SHAPE)
    transform = RigidInferer(passes=2)(images, network, pair_on((2.0, 2.0, 2.0)))
    points, expected = moved((2.0, 2.0, 2.0), times=2)
    np.testing.assert_allclose(transform(torch.from_numpy(points)), expected, atol=1e-4)
    first, second = network.inputs
    assert torch.equal(first, images)
    assert torch.equal(second[:, 1], images[:, 1])
    assert not torch.allclose(second[:, 0], images[:, 0])
