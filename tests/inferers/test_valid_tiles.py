# SPDX-License-Identifier: Apache-2.0
"""Tiles of any size give the same field and respect the memory limit."""

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from math import prod

import pytest
import torch
from torch import Tensor, nn

from regplugins.inferers import ValidTileInferer
from regplugins.networks import ValidUNet
from tests.networks.test_valid_unet import lively


class Middle(nn.Module):
    """Gives the middle of what it is shown, so that what happened to it can be seen."""

    margin, stride, voxel_bytes = 20, 4, 100

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, pair: Tensor) -> Tensor:
        self.seen.append(tuple(pair.shape[2:]))
        inner = slice(self.margin, -self.margin)
        return pair[(..., *[inner] * (pair.dim() - 2))]


@pytest.mark.parametrize("shape", [(1, 30), (57, 33), (30, 9, 41)])
@pytest.mark.parametrize("memory", [10.0, 0.009])
def test_every_voxel_comes_back_once(shape, memory):
    pair, network = torch.rand(2, len(shape), *shape), Middle()
    assert torch.equal(ValidTileInferer(memory)(pair, network), pair)
    assert len(set(network.seen)) == 1
    assert len(network.seen) == 1 or memory < 10


def test_tiles_keep_to_the_memory_and_no_others_see_fewer_voxels():
    """Against every tile that there is."""
    shape, network = (50, 85, 48), Middle()

    def seen(tile: Sequence[int]) -> int:
        return prod(-(-size // step) * (step + 40) for size, step in zip(shape, tile, strict=True))

    every = list(product(*(range(4, size + 4, 4) for size in shape)))
    for gigabytes in (0.009, 0.02, 0.05, 0.1):
        fitting = [tile for tile in every if prod(size + 40 for size in tile) * 100 <= gigabytes * 2**30]
        tile = ValidTileInferer(gigabytes).tiles(shape, network)
        assert tuple(tile) in fitting
        assert seen(tile) == min(map(seen, fitting))
    assert ValidTileInferer(100).tiles(shape, network) == [52, 88, 48]


def test_the_field_does_not_depend_on_the_tiles():
    """28-tiles as in the paper, other tiles, and one pass over the whole volume."""
    network = lively(ValidUNet(channels=(4, 8, 8)))
    pair = torch.rand(1, 2, 61, 38, 45)
    whole = ValidTileInferer(memory=100)(pair, network)
    assert whole.std() > 0.1
    for tile in ([28, 28, 28], [32, 40, 24], [4, 40, 48]):
        field = ValidTileInferer(tile=tile, progress=False)(pair, network)
        torch.testing.assert_close(field, whole, atol=1e-5, rtol=0)


def test_beyond_the_volume_its_border_continues():
    network = lively(ValidUNet(2, channels=(4, 4, 4)))
    row = torch.rand(1, 2, 48, 1)
    field = ValidTileInferer()(row.expand(-1, -1, -1, 16), network)
    # along the second axis nothing changes, but for where a voxel lies between multiples of four
    torch.testing.assert_close(field[..., :4], field[..., 4:8])


@pytest.mark.parametrize(("tile", "progress", "shown"), [(8, True, True), (8, False, False), (16, True, False)])
def test_a_bar_counts_tiles(tile, progress, shown, capsys):
    ValidTileInferer(tile=[tile, tile], progress=progress)(torch.rand(1, 2, 16, 16), Middle())
    assert ("tiles:" in capsys.readouterr().err) == shown


_MEASURE = """
import json, os, sys
import torch
from regplugins.inferers import ValidTileInferer
from regplugins.networks import ValidUNet

def peak():
    # what this process held at most, GiB; the resource module's figure has a share of the one that started it
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20

def measure(channels, memory, tile):
    network = ValidUNet(channels=channels).eval()
    inferer = ValidTileInferer(memory=memory)
    pair = torch.rand(1, 2, 60, 60, 60)
    assert inferer.tiles(pair.shape[2:], network) == tile
    with torch.inference_mode():
        inferer(pair[..., :4, :4, :4], network)  # what libraries set up once
        before = peak()
        inferer(pair, network)
    print(peak() - before, flush=True)

for case in json.loads(sys.argv[1]):
    if os.fork() == 0:
        measure(*case)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no /proc")
def test_keeps_to_its_memory():
    """By the peaks of processes of their own; nor does it leave much more than half of the memory unused."""
    cases = [
        ((32, 8, 8), 0.5, [60, 60, 60]),
        ((32, 8, 8), 0.3, [20, 60, 60]),
        ((8, 128, 64), 0.26, [60, 60, 60]),
    ]
    words = [sys.executable, "-c", _MEASURE, json.dumps(cases)]
    run = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
    assert run.returncode == 0, run.stderr
    for (_, memory, _), found in zip(cases, map(float, run.stdout.split()), strict=True):
        assert 0.35 * memory < found < memory


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory": 0}, "memory must be positive, got 0"),
        ({"memory": "lots"}, "memory must be a number, got 'lots'"),
        ({"memory": 1e-6}, "memory of 1e-06 GiB is too little: the smallest tile"),
        ({"tile": [28, 30]}, "tile must be 2 multiples of 4, got"),
        ({"tile": [28]}, "tile must be 2 multiples of 4, got"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        ValidTileInferer(**arguments)(torch.rand(1, 2, 32, 32), Middle())
