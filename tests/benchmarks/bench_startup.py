# SPDX-License-Identifier: Apache-2.0
"""Seconds of `regplugins register` beyond `import monai`, of its picture, and of each further pair of a list.

    python tests/benchmarks/bench_startup.py [--bundle bundles/hippocampus_mr_multires_fcn] [--repeats 5] [--pairs 10]

A pair and the list alternate, each in a process of its own, which imports MONAI first. Python's compiled files are
kept, as of an installed package. Medians of the wall clock and of the processor (all threads). Without a machine that
does nothing else only the latter can be compared.
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


# Prints both clocks before and after `import monai` and at the end.
_CODE = """
import sys, time
def clocks(): return time.perf_counter(), time.process_time()
begin = clocks()
import monai
imported = clocks()
from regplugins.__main__ import main
main(sys.argv[1:])
print(*begin, *imported, *clocks())
"""


def _run(words: list[str]) -> tuple[Seconds, Seconds]:
    """Seconds of `import monai` and of a command after it, each by the wall clock and by the processor."""
    command = [sys.executable, "-c", _CODE, *words]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    output = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, env=environment
    ).stdout
    begin, begin_cpu, imported, imported_cpu, end, end_cpu = map(float, output.splitlines()[-1].split())
    return (imported - begin, imported_cpu - begin_cpu), (end - imported, end_cpu - imported_cpu)


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
        single = ["register", *images.values(), *options, f"{folder}/one"]
        several = ["register", "--datalist", str(datalist), *options, f"{folder}/many"]
        _run(single)  # compiles
        runs = [(_run(single), _run(several)) for _ in range(repeats)]
        picture = _picture(Path(folder, "one"), repeats)
    one, many = (_median([run[which][1] for run in runs]) for which in range(2))
    rows = {"import monai": _median([part[0] for run in runs for part in run]), "one pair beyond it": one}
    rows["its picture"] = picture
    rows["each further pair"] = ((many[0] - one[0]) / (pairs - 1), (many[1] - one[1]) / (pairs - 1))
    for name, (wall, processor) in rows.items():
        print(f"{name:20} {wall:6.2f} s wall {processor:6.2f} s processor")


if __name__ == "__main__":
    fire.Fire(main)
