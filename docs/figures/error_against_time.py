# SPDX-License-Identifier: Apache-2.0
"""Error against time of several programs, each with several numbers of iterations.

    python docs/figures/error_against_time.py --runs R --output F.png

``R/<section>/<method>_<effort>/metrics.csv`` are what ``tests/benchmarks/peers.py --method M --effort E`` writes. A
point is a run: the mean over its pairs, the first so many, against the median time of a pair's registration, without
files and ``init``. Runs of fewer pairs are left out.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median

import fire
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from regplugins.io import atomic

# Title, axis, column and number of pairs: of "test" those of MR.
PANELS = {
    "test": ("known warps of brains, MR, after init affine", "error in the brain, mm", "endpoint_error_mean_after", 18),
    "hippocampus": ("hippocampus", "Dice", "dice_mean_after", 50),
}
NAMES = {
    "multimodal": "multimodal (ours)",
    "same_modality": "same_modality (ours)",
    "convexadam": "ConvexAdam",
    "greedy_nmi": "Greedy, NMI",
    "greedy_ncc": "Greedy, NCC",
    "syn_mi": "ANTs SyN, MI",
    "dipy_em": "dipy SyN, EM",
    "dipy_cc": "dipy SyN, CC",
    "fireants_mi": "FireANTs, MI",
    "fireants_cc": "FireANTs, CC",
}
# One color a program, whichever its similarity.
COLORS = {"ConvexAdam": "C1", "Greedy": "C2", "ANTs SyN": "C3", "dipy SyN": "C4", "FireANTs": "C5"}


def main(runs: str, output: str) -> None:
    """Draw a panel for each section that there is."""
    found = {name: panel for name, panel in PANELS.items() if (Path(runs) / name).is_dir()}
    figure = Figure(figsize=(5.2 * len(found), 4.2), dpi=150, layout="constrained")
    for axes, (section, (title, label, column, pairs)) in zip(
        figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
    ):
        curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for path in (Path(runs) / section).glob("*/metrics.csv"):
            method = path.parent.name.rpartition("_")[0]
            with path.open(encoding="utf-8") as file:
                rows = list(csv.DictReader(file))[:pairs]
            if len(rows) < pairs:
                continue
            seconds = median(float(row["seconds_network"]) for row in rows)
            curves[method].append((seconds, fmean(float(row[column]) for row in rows)))
        for method, name in NAMES.items():
            if method in curves:
                program = name.split(",")[0]
                own = program not in COLORS
                style = {"color": COLORS.get(program, "C0"), "linewidth": 2.2 if own else 1.2}
                axes.plot(*zip(*sorted(curves[method]), strict=True), marker="o", label=name, **style)
        axes.set(title=title, xlabel="seconds a pair", ylabel=label)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    with atomic(output) as temporary:
        figure.savefig(temporary)


if __name__ == "__main__":
    fire.Fire(main)
