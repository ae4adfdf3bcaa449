# SPDX-License-Identifier: Apache-2.0
"""A network's field as it is and by torch.compile, on the sizes of its bundle's sample.

    python tests/benchmarks/bench_compile.py [--bundle bundles/brain_mr_gated_gradient] [--pairs 20]

Medians in one process, and what translating takes at first.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import fire
import torch
from monai.bundle import ConfigParser


def main(bundle: str = "bundles/brain_mr_gated_gradient", pairs: int = 20) -> None:
    """Print seconds a pair of both."""
    config = ConfigParser()
    config.read_config(Path(bundle) / "configs/inference.json")
    config.update({"bundle_root": bundle, "init": "center"})
    network = config.get_parsed_content("network").eval()
    records, load = config.get_parsed_content("dataset").data, config.get_parsed_content("preprocessing")
    pair = torch.as_tensor(load(records[0])["pair"])[None]
    seconds: dict[bool, list[float]] = {False: [], True: []}
    inferers = {}
    for compile in seconds:
        config["compile"] = compile
        config.parse(reset=True)
        inferers[compile] = config.get_parsed_content("inferer")
        begin = time.perf_counter()
        inferers[compile](pair, network)
        print(f"{'compiled' if compile else 'as it is'}: the first pair {time.perf_counter() - begin:.2f} s")
    for _ in range(pairs):
        for compile, inferer in inferers.items():
            begin = time.perf_counter()
            inferer(pair, network)
            seconds[compile].append(time.perf_counter() - begin)
    plain, compiled = (statistics.median(seconds[compile]) for compile in (False, True))
    print(f"{tuple(pair.shape)}: as it is {plain:.4f} s, compiled {compiled:.4f} s, ratio {compiled / plain:.2f}")


if __name__ == "__main__":
    fire.Fire(main)
