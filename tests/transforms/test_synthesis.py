# SPDX-License-Identifier: Apache-2.0
"""Images in the other modality."""

from __future__ import annotations

import pytest
import torch

from regplugins.networks import Fire, NoDeformation
from regplugins.transforms import SynthesisePaird


def test_either_image_as_the_network_makes_it():
    torch.manual_seed(0)
    network = Fire(2, channels=4, blocks=1).eval()
    pair = torch.rand(2, 16, 24)
    images = SynthesisePaird(network)({"pair": pair})["synthesised"]
    of_moving, of_fixed = network.synthesise(pair[None])
    torch.testing.assert_close(images["moving"], of_moving[0])
    torch.testing.assert_close(images["fixed"], of_fixed[0])
    assert not images["moving"].requires_grad


def test_not_asked_for():
    assert SynthesisePaird(Fire(2), enabled=False)({"pair": torch.rand(2, 16, 24)}).keys() == {"pair"}
    with pytest.raises(TypeError, match="synthesised must be True or False, got 'true'"):
        SynthesisePaird(Fire(2), enabled="true")


def test_a_network_that_makes_none():
    with pytest.raises(TypeError, match="synthesised: NoDeformation makes no images of the other modality"):
        SynthesisePaird(NoDeformation())
