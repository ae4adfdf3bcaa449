# SPDX-License-Identifier: Apache-2.0
"""The two figures of Li and Fan (2018), made with the hippocampus bundle.

    python docs/figures/hippocampus_paper_figures.py ncc --evaluations E --output F.png
    python docs/figures/hippocampus_paper_figures.py mean_image --dataset_dir D --output F.png

``ncc`` compares models on training and test pairs: ``E/<model>/<section>/metrics.csv`` are what evaluate.json wrote.
``mean_image`` registers every test image to the first one and shows their mean before and after.
"""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path

import fire
import monai.bundle
import numpy as np
import torch
from matplotlib.figure import Figure

from regplugins.data import read_datalist
from regplugins.io import atomic, load_image, read_chain
from regplugins.registration.intensity import scale_percentiles
from regplugins.report.planes import display_planes
from regplugins.spatial import Grid, resample

BUNDLE = Path(__file__).resolve().parents[2] / "bundles/hippocampus_mr_multires_fcn"
MODELS = ("multires", "no_pooling", "coarse")
SECTIONS = ("training", "test")


def ncc(evaluations: str, output: str) -> None:
    """Box plots of the correlation of fixed and warped image over the pairs, for each model and section."""
    figure = Figure(figsize=(6, 3.2), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(SECTIONS), sharey=True)
    for panel, section in zip(axes, SECTIONS, strict=True):
        tables = {model: _column(Path(evaluations) / model / section / "metrics.csv", "ncc_after") for model in MODELS}
        before = _column(Path(evaluations) / MODELS[0] / section / "metrics.csv", "ncc_before")
        names = ["before", *tables]
        panel.boxplot([before, *tables.values()], tick_labels=names, widths=0.6, showmeans=True)
        panel.set_title(f"{len(before)} {section} pairs", fontsize=10)
        panel.grid(axis="y", linewidth=0.4)
        panel.tick_params(labelsize=8)
        for name, values in zip(names, [before, *tables.values()], strict=True):
            print(f"{section} {name}: {np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}")
    axes[0].set_ylabel("NCC of fixed and warped image")
    with atomic(output) as temporary:
        figure.savefig(temporary)


def mean_image(dataset_dir: str, output: str) -> None:
    """Means of the test images in the first one's space: through the initial alignment alone, and registered."""
    images = [record["image"] for record in read_datalist(Path(dataset_dir) / "datalist.json", "test")]
    fixed = load_image(images[0])
    grid = Grid.from_image(fixed)
    before, after = np.zeros(grid.shape), np.zeros(grid.shape)
    with tempfile.TemporaryDirectory() as folder:
        pairs = [{"fixed": images[0], "moving": image, "name": str(k)} for k, image in enumerate(images[1:])]
        datalist = Path(folder) / "pairs.json"
        datalist.write_text(json.dumps(pairs))
        config = str(BUNDLE / "configs/inference.json")
        monai.bundle.run(config_file=config, bundle_root=str(BUNDLE), datalist=str(datalist), output_dir=folder)
        for pair in pairs:
            moving = load_image(pair["moving"])
            written = [
                Path(folder) / pair["name"] / f"transform_{part}" for part in ("1Warp.nii.gz", "0GenericAffine.mat")
            ]
            for mean, files in ((before, written[1:]), (after, written)):
                # Continued from its border, so that no edge of the field of view looks like sharpness.
                warped = resample(moving.as_tensor(), Grid.from_image(moving), grid, read_chain(files), fill=None)
                mean += scale_percentiles(warped)[0].numpy() / len(pairs)
    shown = {"fixed": scale_percentiles(fixed.as_tensor())[0].numpy(), "mean before": before, "mean after": after}
    planes = display_planes(grid, tuple(size // 2 for size in grid.shape))
    figure = Figure(figsize=(6, 6), dpi=150, layout="constrained")
    panels = figure.subplots(len(planes), len(shown), squeeze=False)
    for column, (name, image) in enumerate(shown.items()):
        slope = np.sqrt(sum(part**2 for part in np.gradient(image, *grid.spacing.tolist())))
        print(f"{name}: mean gradient magnitude {slope.mean():.4f} / mm")
        for row, plane in enumerate(planes):
            panels[row][column].imshow(
                plane.take(torch.from_numpy(image)[None])[0], cmap="gray", extent=plane.extent, vmin=0, vmax=1
            )
            panels[row][column].set_axis_off()
        panels[0][column].set_title(f"{name}\n{slope.mean():.4f} / mm", fontsize=10)
    with atomic(output) as temporary:
        figure.savefig(temporary)


def _column(path: Path, name: str) -> list[float]:
    with path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


if __name__ == "__main__":
    fire.Fire({"ncc": ncc, "mean_image": mean_image})
