# SPDX-License-Identifier: Apache-2.0
"""A volume's field by the valid network: in tiles of 28 voxels, as in the paper, and in the largest that memory allows.

python tests/benchmarks/bench_valid_tiles.py --shape 218 196 100 --repeats 1 [--memory 4] [--channels 32 64 128] [--amp]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import product
from math import ceil

import torch
from side_by_side import compare, measure, parser
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from regplugins.inferers import ValidTileInferer
from regplugins.networks import ValidUNet

IMPLEMENTATIONS = ("tiles of 28", "largest")


def main(arguments: Sequence[str]) -> None:
    """Measure one, or compare both."""
    options_parser = parser(__doc__, IMPLEMENTATIONS)
    options_parser.add_argument("--memory", type=float, default=4.0, help="GiB for the largest tiles")
    options_parser.add_argument("--channels", type=int, nargs=3, default=[32, 64, 128])
    options_parser.add_argument("--amp", action="store_true", help="convolutions in bfloat16")
    options = options_parser.parse_args(arguments)
    n = len(options.shape)
    torch.manual_seed(0)
    with torch.device(options.device):
        network = ValidUNet(n, options.channels).eval().to(memory_format=torch.channels_last_3d)
    inferers = {
        "tiles of 28": ValidTileInferer(tile=[28] * n, amp=options.amp),
        "largest": ValidTileInferer(options.memory, amp=options.amp),
    }
    if options.only:
        torch.set_num_threads(options.threads)

        def step(moving: Tensor, fixed: Tensor) -> Tensor:
            return inferers[options.only](torch.cat([moving, fixed], dim=1), network)

        def images(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
            moving, fixed = (torch.rand(1, 1, *shape, device=options.device) for _ in range(2))
            return moving, fixed

        print(json.dumps(measure(step, images, 8, options)))
        return
    compare(__file__, arguments, IMPLEMENTATIONS)
    operations = {}
    for name, inferer in inferers.items():
        tile = inferer.tiles(options.shape, network)
        count = len(list(product(*(range(ceil(size / step)) for size, step in zip(options.shape, tile, strict=True)))))
        operations[name] = count * _operations(network, tile)
        print(f"{name:>12}: {count} tiles of {tile}, {operations[name] / 1e12:.2f} TFLOP")
    print("       ratio: {:.2f}".format(operations["tiles of 28"] / operations["largest"]))


def _operations(network: ValidUNet, tile: Sequence[int]) -> int:
    """Floating-point operations of one tile, counted without computing them."""
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 2, *(size + 2 * network.margin for size in tile)))
    return counter.get_total_flops()


if __name__ == "__main__":
    main(sys.argv[1:])
