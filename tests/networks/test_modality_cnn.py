# SPDX-License-Identifier: Apache-2.0
"""Modality classifier of Islam et al."""

import torch

from regplugins.networks import ModalityCNN
from regplugins.networks.rigid_cnn import Trunk


def test_a_negative_is_of_the_same_modality():
    network = ModalityCNN(trunk=Trunk((4, 8)), features=8).eval()
    images = torch.rand(3, 1, 16, 16, 8)
    torch.testing.assert_close(network(1 - images), network(images))
    assert not torch.allclose(network(images**2), network(images))


def test_scripts():
    network = ModalityCNN(trunk=Trunk((4, 8)), features=8).eval()
    image = torch.rand(1, 1, 16, 16, 8)
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))
