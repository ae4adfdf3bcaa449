# SPDX-License-Identifier: Apache-2.0
"""Time of `warp`, forward and with gradients, beside `F.grid_sample` plus one pass over the field.

    python tests/benchmarks/bench_warp.py [--shape 96,96,96] [--threads 2]

The least that a warp can do: the identity's sampling grid lies ready, and the field is added to it in one pass, scaled
as for a cube with its axes the right way round already. Alternating blocks in one process, medians; run it on a
machine that does nothing else.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import fire
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.benchmark import Timer

from regplugins.spatial import warp


def main(shape: tuple[int, ...] = (96, 96, 96), threads: int = 2, repeats: int = 15) -> None:
    """Measure and print both and their ratio."""
    ndim = len(shape)
    image, ddf = torch.rand(1, 1, *shape), torch.randn(1, ndim, *shape)
    grid = F.affine_grid(torch.eye(ndim, ndim + 1)[None], [1, 1, *shape], align_corners=True)

    def least(field: Tensor) -> Tensor:
        places = torch.add(grid, field.movedim(1, -1), alpha=2 / max(shape))
        return F.grid_sample(image, places, align_corners=True, padding_mode="border")

    def ours(field: Tensor) -> Tensor:
        return warp(image, field)

    def with_gradient(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def step(field: Tensor) -> Tensor:
            field = field.detach().requires_grad_()
            function(field).sum().backward()
            return field

        return step

    for name, functions in (("forward", (least, ours)), ("and backward", (with_gradient(least), with_gradient(ours)))):
        timers = [Timer("f(u)", globals={"f": f, "u": ddf}, num_threads=threads) for f in functions]
        times: list[list[float]] = [[], []]
        for _ in range(repeats):
            for own, timer in zip(times, timers, strict=True):
                own.append(timer.timeit(2).mean)
        base, own = (statistics.median(part) for part in times)
        print(f"{name}: grid_sample and one pass {1e3 * base:.1f} ms, warp {1e3 * own:.1f} ms, ratio {own / base:.2f}")


if __name__ == "__main__":
    fire.Fire(main)
