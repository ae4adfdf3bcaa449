# SPDX-License-Identifier: Apache-2.0
"""Whole-volume inference of images of any size."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from regplugins.inferers import WholeVolumeInferer


class Picky(nn.Module):
    """Takes multiples of 8 only; its field is the input, so that what happened to it can be seen."""

    stride = 8

    def forward(self, pair: Tensor) -> Tensor:
        assert all(size % 8 == 0 for size in pair.shape[2:])
        return pair.clone()


@pytest.mark.parametrize("shape", [(8, 16), (7, 17), (1, 3), (5, 8, 9)])
def test_pads_to_what_the_network_takes_and_crops_back(shape):
    pair = torch.rand(2, 2, *shape)
    assert torch.equal(WholeVolumeInferer()(pair, Picky()), pair)


def test_padding_continues_the_border():
    class Largest(nn.Module):
        stride = 8

        def forward(self, pair: Tensor) -> Tensor:
            return pair.amin(dim=(2, 3), keepdim=True).expand_as(pair)

    assert WholeVolumeInferer()(torch.full((1, 2, 5, 5), 3.0), Largest()).min() == 3  # zeros would show


def test_amp_gives_float32_without_a_graph():
    network = nn.Conv2d(2, 2, 3, padding=1)
    pair = torch.rand(1, 2, 8, 8)
    field = WholeVolumeInferer(amp=True)(pair, network)
    assert field.dtype == torch.float32
    assert not field.requires_grad
    torch.testing.assert_close(field, network(pair), atol=0.02, rtol=0.02)


_COMPILED = """
import torch
from torch import nn
from regplugins.inferers import WholeVolumeInferer

torch.manual_seed(0)
network = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1)).eval()
inferer = WholeVolumeInferer(compile=True)
for shape in ((16, 13, 12), (12, 16, 20)):
    pair = torch.rand(1, 2, *shape)
    expected = WholeVolumeInferer()(pair, network)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(inferer(pair, network), expected, atol=1e-4, rtol=1e-3)
"""


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_compiled_it_is_the_same():
    """Compiled and plain network agree for changing sizes; in UTF-8, in which PyTorch's compiler has its templates."""
    environment = {**os.environ, "PYTHONUTF8": "1"}
    words = [sys.executable, "-c", _COMPILED]
    run = subprocess.run(words, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert run.returncode == 0, run.stderr
