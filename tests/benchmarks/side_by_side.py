# SPDX-License-Identifier: Apache-2.0
"""Two implementations of a loss, each in a fresh process, so that neither finds memory that the other left."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def parser(description: str | None, implementations: Sequence[str]) -> argparse.ArgumentParser:
    """The options that all such benchmarks have."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shape", type=int, nargs="+", default=[96, 96, 96], help="two or three sizes")
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--repeats", type=int, default=10)
    options.add_argument("--device", default="cpu")
    options.add_argument("--only", choices=implementations, help="measure this one, in this process, and print JSON")
    return options


def measure(
    step: Callable[[Tensor, Tensor], object],
    images: Callable[[Sequence[int]], tuple[Tensor, Tensor]],
    warming: int,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Seconds of a step, and by how much the peak memory grew over that of a warm process that holds the images, MiB.

    Args:
        step: what is measured.
        images: a pair of a spatial shape.
        warming: size of a small pair to warm up with.
        options: of the benchmark.
    """
    step(*images([warming] * len(options.shape)))
    pair = images(options.shape)
    before = _peak_memory(options.device)
    step(*pair)
    times = seconds(lambda: step(*pair), options.repeats, options.device)
    memory = _peak_memory(options.device) - before
    return {"median": statistics.median(times), "shortest": min(times), "memory": memory}


def seconds(run: Callable[[], object], repeats: int, device: str) -> list[float]:
    """Wall-clock seconds of each repetition."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times


def run(
    options: argparse.ArgumentParser,
    measured: Callable[[str, argparse.Namespace], dict[str, float]],
    script: str,
    arguments: Sequence[str],
    implementations: Sequence[str],
) -> None:
    """Measure the one implementation that ``--only`` names and print JSON, else compare them."""
    given = options.parse_args(arguments)
    if given.only:
        print(json.dumps(measured(given.only, given)))
    else:
        compare(script, arguments, implementations)


def compare(script: str, arguments: Sequence[str], implementations: Sequence[str]) -> dict[str, dict[str, float]]:
    """Run a benchmark once for each implementation, the baseline first, print what they took and the ratio."""
    results = {}
    for name in implementations:
        command = [sys.executable, script, *arguments, "--only", name]
        results[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        report = "{median:.4f} s median, {shortest:.4f} s shortest, {memory:.1f} MiB".format(**results[name])
        print(f"{name:>10}: {report}")
    baseline, ours = (results[name] for name in implementations)
    ratios = {key: baseline[key] / ours[key] for key in ("median", "shortest", "memory")}
    print("     ratio: {median:.1f}, {shortest:.1f}, {memory:.1f}".format(**ratios))
    return results


def _peak_memory(device: str) -> float:
    """The largest resident memory of this process so far, or the largest allocated on the device, MiB."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
