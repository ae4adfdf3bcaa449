# SPDX-License-Identifier: Apache-2.0
"""Numbers of a rigid network as a field, against SciPy's rotations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from regplugins.inferers import RigidInferer
from regplugins.networks import RigidCNN
from regplugins.networks.rigid_cnn import Trunk

SHAPE = (12, 10, 14)
PARAMETERS = (8.0, -5.0, 12.0, 3.0, -1.5, 2.0)


class Constant(nn.Module):
    """Always the same motion; keeps what it saw."""

    def __init__(self, parameters: tuple[float, ...] = PARAMETERS) -> None:
        super().__init__()
        self.parameters_given = torch.tensor(parameters)
        self.seen: list[Tensor] = []

    def forward(self, pair: Tensor) -> Tensor:
        self.seen.append(pair)
        return self.parameters_given.expand(len(pair), 6)


def displaced(spacing: tuple[float, float, float], times: int = 1) -> np.ndarray:
    """Where voxels go, minus where they are, voxels."""
    angles, shift = PARAMETERS[:3], np.array(PARAMETERS[3:])
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()  # lower case: axes that stay
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    center = (np.array(SHAPE) - 1) / 2 * spacing
    points = index * spacing
    for _ in range(times):
        points = (points - center) @ rotation.T + center + shift
    return np.moveaxis(points / spacing - index, -1, 0)


@pytest.mark.parametrize("spacing", [2.0, (1.0, 2.0, 1.5)])
def test_field_of_a_motion(spacing):
    field = RigidInferer(spacing)(torch.rand(2, 2, *SHAPE), Constant())
    expected = displaced(spacing if isinstance(spacing, tuple) else (spacing,) * 3)
    assert field.shape == (2, 3, *SHAPE)
    np.testing.assert_allclose(field[0].numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(field[1].numpy(), expected, atol=1e-4)


def test_second_pass_sees_the_moved_image_and_adds_to_the_first():
    network = Constant()
    pair = torch.rand(1, 2, *SHAPE)
    field = RigidInferer(2.0, passes=2)(pair, network)
    np.testing.assert_allclose(field[0].numpy(), displaced((2.0,) * 3, times=2), atol=1e-4)
    first, second = network.seen
    assert torch.equal(first, pair)
    assert torch.equal(second[:, 1], pair[:, 1])
    assert not torch.allclose(second[:, 0], pair[:, 0])


def test_untrained_network_moves_nothing():
    network = RigidCNN(Trunk((4, 8)), features=8).eval()
    assert RigidInferer(1.0, passes=3)(torch.rand(1, 2, 16, 16, 8), network).abs().max() < 1e-5


@pytest.mark.parametrize("passes", [0, 1.5, "x", True])
def test_passes_are_a_whole_number(passes):
    with pytest.raises(ValueError, match=f"passes must be a whole number of at least 1, got {passes!r}"):
        RigidInferer(1.0, passes=passes)
