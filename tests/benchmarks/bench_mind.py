#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of `MINDLoss` beside the same loss written out plainly: shifted copies, pooling, autograd.

Forward and backward together, each implementation in a fresh process of its own: the median and the shortest of the
repetitions, and by how much the process's peak resident memory grew over that of a warm process holding the two images
(on CUDA, the peak of allocated memory). The gradient is that of the warped image, as in training. On CUDA also the
share that reading two images and writing one gradient, at the speed of a copy, has in the median. Run it on a machine
that does nothing else; from the repository's root:

    python tests/benchmarks/bench_mind.py --shape 96 96 96 --neighborhood ssc --radius 2 --threads 2
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from itertools import combinations

import side_by_side
import torch
import torch.nn.functional as F
from torch import Tensor

from regplugins.losses import MINDLoss

IMPLEMENTATIONS = ("plain", "regplugins")


def describe(image: Tensor, neighborhood: str, radius: int, dilation: int) -> Tensor:
    """Return the descriptors of an image (B, 1, *spatial), one edge after the other, in an order of their own."""
    ndim, margin = image.ndim - 2, radius + dilation
    padded = F.pad(image, [margin] * 2 * ndim, mode="replicate")
    neighbors = [[sign * dilation * (axis == k) for axis in range(ndim)] for k in range(ndim) for sign in (-1, 1)]
    if neighborhood == "mind":
        edges = [([0] * ndim, neighbor) for neighbor in neighbors]
    else:
        edges = [(a, b) for a, b in combinations(neighbors, 2) if [-step for step in a] != b]

    def shifted(offset: Sequence[int]) -> Tensor:
        sizes = zip(offset, image.shape[2:], strict=True)
        return padded[(..., *(slice(dilation + step, dilation + step + size + 2 * radius) for step, size in sizes))]

    pool = F.avg_pool3d if ndim == 3 else F.avg_pool2d
    distances = pool(torch.cat([shifted(a) - shifted(b) for a, b in edges], dim=1).square(), 2 * radius + 1, stride=1)
    variance = distances.mean(1, keepdim=True)
    mean = variance.detach().flatten(1).mean(1).view(-1, *[1] * (ndim + 1))
    nearest = distances.amin(1, keepdim=True)
    return torch.exp((nearest - distances) / variance.clamp(1e-3 * mean, 1e3 * mean))


def make_loss(implementation: str, options: argparse.Namespace) -> Callable[[Tensor, Tensor], Tensor]:
    arguments = options.neighborhood, options.radius, options.dilation
    if implementation == "regplugins":
        return MINDLoss(*arguments)
    return lambda pred, target: (describe(pred, *arguments) - describe(target, *arguments)).abs().mean()


def check(options: argparse.Namespace) -> None:
    """Stop if the two do not agree on value and gradient."""
    size = [4 + 4 * (options.radius + options.dilation) + axis for axis in range(len(options.shape))]
    pred, target = torch.rand(2, 2, 1, *size, dtype=torch.float64, device=options.device)
    values = [make_loss(name, options)(pred.requires_grad_(), target) for name in IMPLEMENTATIONS]
    torch.testing.assert_close(values[1], values[0])
    gradients = [torch.autograd.grad(value, pred)[0] for value in values]
    torch.testing.assert_close(gradients[1], gradients[0])


def measure(implementation: str, options: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    loss = make_loss(implementation, options)

    def images(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        pred, target = torch.rand(2, options.batch, 1, *shape, device=options.device)
        return pred.requires_grad_(), target

    def step(pred: Tensor, target: Tensor) -> None:
        torch.autograd.grad(loss(pred, target), pred)

    result = side_by_side.measure(step, images, 16, options)
    if options.device != "cpu":
        block = torch.empty(2**28, device=options.device)
        copy = min(side_by_side.seconds(lambda: block.clone(), 10, options.device))
        image_bytes = 4 * options.batch * math.prod(options.shape)
        result["floor"] = 3 * image_bytes / (2 * block.nbytes / copy) / result["median"]
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = side_by_side.parser(__doc__, IMPLEMENTATIONS)
    parser.set_defaults(device="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--neighborhood", choices=("mind", "ssc"), default="ssc")
    parser.add_argument("--radius", type=int, default=1)
    parser.add_argument("--dilation", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    check(options)
    results = side_by_side.compare(__file__, arguments, IMPLEMENTATIONS)
    for name, result in results.items():
        if "floor" in result:
            print(f"{name:>10}: {result['floor']:.2%} of it for reading and writing once")


if __name__ == "__main__":
    main()
