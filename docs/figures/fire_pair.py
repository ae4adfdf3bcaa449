# SPDX-License-Identifier: Apache-2.0
"""One pair through FIRE both ways: the images, what each is made of the other, the affine part and the whole transform.

    python docs/figures/fire_pair.py --dataset_dir D --output F.png [--section strong] [--pair NAME] [--overlay slices]

Above the moving image is brought onto the fixed one, below the other way round; in the form of the paper's figures.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import fire
import monai.bundle
from matplotlib.figure import Figure

from regplugins.data import read_datalist
from regplugins.io import atomic, load_image
from regplugins.report.panels import gray
from regplugins.report.planes import display_planes
from regplugins.report.windows import image_windows
from regplugins.spatial import Grid

BUNDLE = Path(__file__).resolve().parents[2] / "bundles/brain_mr_fire"
COLUMNS = ("moving", "fixed", "synthesized of the moving", "affine part", "affine and non-rigid")


def main(
    dataset_dir: str, output: str, section: str = "strong", pair: str | None = None, overlay: str | None = None
) -> None:
    """Register the pair (by default a section's first) and draw what comes out."""
    records = read_datalist(Path(dataset_dir) / "datalist.json", section)
    (record,) = [r for r in records if r["name"] == pair] if pair else records[:1]
    with tempfile.TemporaryDirectory() as folder:
        whole, affine = Path(folder) / "whole", Path(folder) / "affine"
        _register(record, whole, overlay, synthesized=True)
        _register(record, affine, overlay, **{"network_def#part": "affine"})
        rows = [
            [record["moving"], record["fixed"], whole / "synthesized_moving.nii.gz", affine / "warped.nii.gz"],
            [record["fixed"], record["moving"], whole / "synthesized_fixed.nii.gz", affine / "backward/warped.nii.gz"],
        ]
        rows[0].append(whole / "warped.nii.gz")
        rows[1].append(whole / "backward/warped.nii.gz")
        figure = Figure(figsize=(2 * len(COLUMNS), 4.6), dpi=150, layout="constrained")
        panels = figure.subplots(2, len(COLUMNS))
        for paths, row, titles in zip(rows, panels, (COLUMNS, [""] * len(COLUMNS)), strict=True):
            for panel, path, title in zip(row, paths, titles, strict=True):
                image = load_image(path)
                grid = Grid.from_image(image)
                plane = display_planes(grid, tuple(size // 2 for size in grid.shape))[0]
                values = plane.take(image.as_tensor())[0]
                panel.imshow(
                    gray(values, image_windows(values, values)[0]), cmap="gray", extent=plane.extent, vmin=0, vmax=1
                )
                panel.set_title(title, fontsize=11)
                panel.set_axis_off()
    with atomic(output) as temporary:
        figure.savefig(temporary)


def _register(record: dict[str, str], output_dir: Path, overlay: str | None, **options: object) -> None:
    configs = ["inference", *([overlay] if overlay else [])]
    monai.bundle.run(
        config_file=[str(BUNDLE / f"configs/{name}.json") for name in configs],
        bundle_root=str(BUNDLE),
        fixed=record["fixed"],
        moving=record["moving"],
        init="none",
        output_dir=str(output_dir),
        **options,
    )


if __name__ == "__main__":
    fire.Fire(main)
