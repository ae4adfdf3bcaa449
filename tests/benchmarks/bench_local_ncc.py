#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of `LocalNCCLoss` beside MONAI's `LocalNormalizedCrossCorrelationLoss`.

Forward and backward together, on the CPU, each implementation in a fresh process of its own: the median and the
shortest of the repetitions, and by how much the process's peak resident memory grew over that of a warm process holding
the two images. The gradient is that of the warped image, as in training, or with `--both` that of the fixed image too.
Run it on a machine that does nothing else; from the repository's root:

    python tests/benchmarks/bench_local_ncc.py --shape 96 96 96 --kernel-size 9 --threads 2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import side_by_side
import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss
from torch import nn

from regplugins.losses import LocalNCCLoss

IMPLEMENTATIONS = ("monai", "regplugins")


def make_loss(implementation: str, kernel: str, kernel_size: int, ndim: int) -> nn.Module:
    if implementation == "regplugins":
        return LocalNCCLoss(kernel_size, "gaussian" if kernel == "gaussian" else "box")
    return LocalNormalizedCrossCorrelationLoss(ndim, kernel_size, "gaussian" if kernel == "gaussian" else "rectangular")


def measure(implementation: str, options: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    loss = make_loss(implementation, options.kernel, options.kernel_size, len(options.shape))

    def step(pred: torch.Tensor, target: torch.Tensor) -> None:
        pred.grad = target.grad = None
        loss(pred, target).backward()

    def images(shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        pred, target = torch.rand(2, options.batch, 1, *shape, device=options.device)
        return pred.requires_grad_(), target.requires_grad_(options.both)

    return side_by_side.measure(step, images, 2 * options.kernel_size, options)


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = side_by_side.parser(__doc__, IMPLEMENTATIONS)
    parser.add_argument("--kernel", choices=("box", "gaussian"), default="box")
    parser.add_argument("--kernel-size", type=int, default=9)
    parser.add_argument("--both", action="store_true", help="the gradient of the fixed image too")
    side_by_side.run(parser, measure, __file__, arguments, IMPLEMENTATIONS)


if __name__ == "__main__":
    main()
