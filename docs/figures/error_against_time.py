# SPDX-License-Identifier: Apache-2.0
"""What each program reaches in how many seconds, from runs of ``tests/benchmarks/peers.py`` with several efforts.

    python docs/figures/error_against_time.py --runs R --output F.png [--column dice_mean] [--pairs WORD]

``R/<method>_<effort>/metrics.csv`` are the tables, of one section. A line joins a method's efforts; a bar is the
standard error of the mean over pairs. ``--pairs`` takes those alone whose name holds the word, ``-WORD`` the others.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import fire
from matplotlib.figure import Figure

from regplugins.io import atomic

NAMES = {
    "multimodal": "regplugins multimodal",
    "same_modality": "regplugins same_modality",
    "large_deformation": "regplugins large_deformation",
    "ct_mr": "regplugins ct_mr",
    "syn_mi": "ANTs SyN (MI)",
    "convexadam": "ConvexAdam",
    "greedy_ncc": "Greedy (NCC)",
    "greedy_nmi": "Greedy (NMI)",
    "dipy_cc": "dipy SyN (CC)",
    "dipy_em": "dipy SyN (EM)",
    "fireants_cc": "FireANTs (CC)",
    "fireants_mi": "FireANTs (MI)",
}
UNITS = {"endpoint_error_mean": "error (mm)", "dice_mean": "Dice", "tre_mean": "target registration error (mm)"}


def main(runs: str, output: str, column: str = "endpoint_error_mean", pairs: str = "", title: str = "") -> None:
    """Draw the means over pairs against the mean seconds of a registration, and print them."""
    points: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for table in sorted(Path(runs).glob("*/metrics.csv")):
        method = table.parent.name.rpartition("_")[0]
        with table.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if _wanted(row["name"], pairs)]
        values = [float(row[f"{column}_after"]) for row in rows]
        seconds = fmean(float(row["seconds_network"]) for row in rows)
        points[method].append((seconds, fmean(values), stdev(values) / math.sqrt(len(values))))
        print(f"{table.parent.name}: {len(values)} pairs, {seconds:.2f} s, {fmean(values):.3f}")

    figure = Figure(figsize=(7.5, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for method in (name for name in NAMES if name in points):
        seconds, means, errors = zip(*sorted(points[method]), strict=True)
        own = NAMES[method].startswith("regplugins")
        axes.errorbar(seconds, means, errors, marker="o", markersize=4, lw=2.5 if own else 1.2, label=NAMES[method])
    axes.set_xscale("log")
    axes.set_xlabel("seconds a pair")
    axes.set_ylabel(UNITS.get(column, column))
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with atomic(output) as temporary:
        figure.savefig(temporary)


def _wanted(name: str, pairs: str) -> bool:
    return pairs[1:] not in name if pairs.startswith("-") else pairs in name


if __name__ == "__main__":
    fire.Fire(main)
