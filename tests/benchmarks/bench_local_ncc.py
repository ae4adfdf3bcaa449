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
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss
from torch import nn

from regplugins.losses import LocalNCCLoss

IMPLEMENTATIONS = ("monai", "regplugins")


def make_loss(implementation: str, kernel: str, kernel_size: int, ndim: int) -> nn.Module:
    if implementation == "regplugins":
        return LocalNCCLoss(kernel_size, "gaussian" if kernel == "gaussian" else "box")
    return LocalNormalizedCrossCorrelationLoss(ndim, kernel_size, "gaussian" if kernel == "gaussian" else "rectangular")


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(implementation: str, options: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    loss = make_loss(implementation, options.kernel, options.kernel_size, len(options.shape))

    def step(pred: torch.Tensor, target: torch.Tensor) -> None:
        pred.grad = target.grad = None
        loss(pred, target).backward()

    def images(shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        pred, target = torch.rand(options.batch, 1, *shape), torch.rand(options.batch, 1, *shape)
        return pred.requires_grad_(), target.requires_grad_(options.both)

    step(*images([2 * options.kernel_size] * len(options.shape)))
    pred, target = images(options.shape)
    before = peak_memory()
    step(pred, target)
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        step(pred, target)
        seconds.append(time.perf_counter() - start)
    return {"median": statistics.median(seconds), "shortest": min(seconds), "memory": peak_memory() - before}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", default=[96, 96, 96], help="two or three sizes")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--kernel", choices=("box", "gaussian"), default="box")
    parser.add_argument("--kernel-size", type=int, default=9)
    parser.add_argument("--both", action="store_true", help="the gradient of the fixed image too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--only", choices=IMPLEMENTATIONS, help="measure this one, in this process, and print JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(arguments)
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    results = {}
    for name in IMPLEMENTATIONS:
        command = [sys.executable, __file__, *arguments, "--only", name]
        results[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        report = "{median:.4f} s median, {shortest:.4f} s shortest, {memory:.1f} MiB".format(**results[name])
        print(f"{name:>10}: {report}")
    ratios = {key: results["monai"][key] / results["regplugins"][key] for key in ("median", "shortest", "memory")}
    print("     ratio: {median:.1f}, {shortest:.1f}, {memory:.1f}".format(**ratios))


if __name__ == "__main__":
    main()
