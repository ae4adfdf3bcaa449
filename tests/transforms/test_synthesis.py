# SPDX-License-Identifier: Apache-2.0
"""Synthesis in the other modality."""

import pytest
import torch

from regplugins.networks import Fire, IdentityNetwork
from regplugins.transforms import SynthesizePaird


def test_either_image_as_the_network_makes_it():
    torch.manual_seed(0)
    network = Fire(2, channels=4, blocks=1).eval()
    pair = torch.rand(2, 16, 24)
    images = SynthesizePaird(network)({"pair": pair})["synthesized"]
    of_moving, of_fixed = network.synthesize(pair[None])
    torch.testing.assert_close(images["moving"], of_moving[0])
    torch.testing.assert_close(images["fixed"], of_fixed[0])
    assert not images["moving"].requires_grad


def test_not_asked_for():
    assert SynthesizePaird(Fire(2), enabled=False)({"pair": torch.rand(2, 16, 24)}).keys() == {"pair"}
    with pytest.raises(TypeError, match="synthesized must be True or False, got 'true'"):
        SynthesizePaird(Fire(2), enabled="true")


def test_a_network_that_makes_none():
    with pytest.raises(TypeError, match="synthesized: IdentityNetwork makes no images of the other modality"):
        SynthesizePaird(IdentityNetwork())
