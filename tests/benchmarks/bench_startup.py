# SPDX-License-Identifier: Apache-2.0
"""Seconds of `regplugins register` beyond `import monai`, of its picture, and of each further pair of a list.

    python tests/benchmarks/bench_startup.py [--bundle bundles/hippocampus_mr_multires_fcn] [--repeats 5] [--pairs 10]

The commands alternate, each in a process of its own. Medians of the wall clock and of the processor (user and system).
Without a machine that does nothing else only the latter can be compared.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fire

ROOT = Path(__file__).resolve().parents[2]
Seconds = tuple[float, float]


def _run(words: list[str]) -> Seconds:
    """Seconds of a Python command by the wall clock and by the processor."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, words
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime


def _median(times: list[Seconds]) -> Seconds:
    wall, processor = (statistics.median(part) for part in zip(*times, strict=True))
    return wall, processor


def _picture(output: Path, repeats: int) -> Seconds:
    """Seconds of the picture of a registered pair, the first of a process left out."""
    from regplugins.io import read_chain, read_json
    from regplugins.report import pair_figure
    from regplugins.transforms import ApplyTransformPaird, EvaluatePaird, LoadPaird

    files = [output / name for name in ("transform_1Warp.nii.gz", "transform_0GenericAffine.mat")]
    record = {key: entry["path"] for key, entry in read_json(output / "report.json")["inputs"].items()}
    pair = EvaluatePaird()(ApplyTransformPaird(read_chain(files))(LoadPaird()(record)))

    def timed(clock: Callable[[], float]) -> float:
        begin = clock()
        pair_figure(output / "again.png", pair)
        return clock() - begin

    timed(time.perf_counter)
    wall, processor = ([timed(clock) for _ in range(repeats)] for clock in (time.perf_counter, time.process_time))
    return statistics.median(wall), statistics.median(processor)


def main(bundle: str = "bundles/hippocampus_mr_multires_fcn", repeats: int = 5, pairs: int = 10) -> None:
    """Measure and print."""
    root = (ROOT / bundle).resolve()
    images: dict[str, Any] = {key: str(root / f"sample/{key}.nii.gz") for key in ("fixed", "moving")}
    with TemporaryDirectory() as folder:
        datalist = Path(folder, "pairs.json")
        datalist.write_text(json.dumps([images | {"name": str(number)} for number in range(pairs)]))
        options = ["--bundle", str(root), "-o"]
        commands = {
            "import monai": ["-c", "import monai"],
            "one pair": ["-m", "regplugins", "register", *images.values(), *options, f"{folder}/one"],
            "pairs": ["-m", "regplugins", "register", "--datalist", str(datalist), *options, f"{folder}/many"],
        }
        times: dict[str, list[Seconds]] = {name: [] for name in commands}
        for _ in range(repeats):
            for name, words in commands.items():
                times[name].append(_run(words))
        picture = _picture(Path(folder, "one"), repeats)
    base, one, many = (_median(times[name]) for name in commands)
    rows = {"import monai": base, "one pair beyond it": (one[0] - base[0], one[1] - base[1]), "its picture": picture}
    rows["each further pair"] = ((many[0] - one[0]) / (pairs - 1), (many[1] - one[1]) / (pairs - 1))
    for name, (wall, processor) in rows.items():
        print(f"{name:20} {wall:6.2f} s wall {processor:6.2f} s processor")


if __name__ == "__main__":
    fire.Fire(main)
