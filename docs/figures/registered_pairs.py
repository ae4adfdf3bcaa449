# SPDX-License-Identifier: Apache-2.0
"""Pairs of a data set, registered with ``preset auto`` and drawn, one a row; also prints what is below each row.

    python docs/figures/registered_pairs.py --dataset_dir D --section report --output F.png

``D`` is what ``regplugins prepare`` wrote. Checkerboards are of the fixed and the moving image; "before" is after the
initial alignment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fire
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from regplugins import register
from regplugins.checks import choice
from regplugins.data import ordered_pairs, read_datalist
from regplugins.io import atomic, load_image, read_chain
from regplugins.registration.intensity import otsu_threshold
from regplugins.registration.modality import is_photograph
from regplugins.report.panels import checkerboard, gray
from regplugins.report.planes import Plane, display_planes
from regplugins.report.windows import image_windows
from regplugins.spatial import Grid, outside_value, resample

COLUMNS = ("fixed", "moving", "warped", "checkerboard before", "after")
# Key of the report, and name.
FIGURES = (("overlap", "Dice"), ("tre_mm", "landmarks"))
PLANES = ("axial", "coronal", "sagittal")
_WIDTH, _LINE, _TILES = 1.7, 0.24, 5  # inches; tiles along the longest edge


def main(
    dataset_dir: str,
    output: str,
    section: str = "report",
    init: str = "auto",
    pairs: int = 200,
    first: int | None = None,
    plane: str = "axial",
) -> None:
    """Register the pairs of a section and draw them.

    Args:
        dataset_dir: folder with ``datalist.json``.
        output: picture.
        section: of the datalist: pairs, or images of which random ordered pairs are made, as evaluate.json does.
        init: initial alignment, or its file.
        pairs: how many are made of images.
        first: only so many of them.
        plane: of 3-D images, "axial", "coronal" or "sagittal", through the middle of what is bright.
    """
    choice("plane", plane, dict.fromkeys(PLANES))
    records = read_datalist(Path(dataset_dir) / "datalist.json", section)
    if "image" in records[0]:
        records = ordered_pairs(records, pairs)
    rows = [_registered(dict(record), init, plane) for record in records[:first]]
    print("\n".join(text for _, _, text in rows))
    heights = [_WIDTH * shown.height / shown.width for shown, _, _ in rows]
    width, height = _WIDTH * len(COLUMNS), sum(heights) + _LINE * (len(rows) + 1)
    figure = Figure(figsize=(width, height), dpi=90)
    top = height - _LINE
    for number, column in enumerate(COLUMNS):
        figure.text((number + 0.5) / len(COLUMNS), 1 - 0.16 / height, column, ha="center", fontsize=8)
    for (shown, pictures, text), high in zip(rows, heights, strict=True):
        for number, picture in enumerate(pictures):
            box = (number * _WIDTH + 0.02, top - high, _WIDTH - 0.04, high)
            cell = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
            cell.imshow(picture, cmap="gray", extent=shown.extent, vmin=0, vmax=1)
            cell.set_axis_off()
        top -= high + _LINE
        figure.text(0.02 / width, (top + 0.08) / height, text, fontsize=8, parse_math=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    with atomic(output) as temporary:
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("L").save(temporary, optimize=True)


def _registered(record: dict[str, Any], init: str, name: str) -> tuple[Plane, list[np.ndarray], str]:
    """Plane of a pair, its pictures in the order of the columns, and a line about it."""
    pair = record.pop("name")
    result = register(**record, init=init)
    fixed, moving = (load_image(record[key]) for key in ("fixed", "moving"))
    grid = Grid.from_image(fixed)
    affine = read_chain([result.folder / "transform_0GenericAffine.mat"])
    before = resample(moving.as_tensor(), Grid.from_image(moving), grid, affine, fill=outside_value(moving))
    bright = fixed.as_tensor()[0] > otsu_threshold(fixed.as_tensor())
    center = tuple(int(k) for k in bright.nonzero().double().mean(dim=0).round())
    planes = {shown.name: shown for shown in display_planes(grid, center)}
    plane = planes.get(name, next(iter(planes.values())))  # 2-D images have one, thin ones not each
    slices = [plane.take(image)[0] for image in (fixed.as_tensor(), before, result.warped.as_tensor())]
    fixed_window, moving_window = image_windows(slices[0], slices[1])
    first = gray(slices[0], fixed_window)
    others = [gray(part, moving_window) for part in slices[1:]]
    tile = max(plane.width, plane.height) / _TILES
    return (
        plane,
        [first, *others, *(checkerboard(first, other, plane, tile) for other in others)],
        # A photograph's pixels have no size.
        _text(pair, result.report, "pixels" if is_photograph(fixed) else "mm"),
    )


def _text(pair: str, report: dict[str, Any], length: str) -> str:
    """Name, what was chosen, and figures before and after; ``length`` is the unit of errors."""
    settings = report["settings"]
    parts = ["init " + settings["chosen"].get("init", "as given"), settings["chosen"]["preset"]]
    for key, name in FIGURES:
        if key in report:
            before, after = (report[key][when]["mean"] for when in ("before", "after"))
            if key == "overlap":
                before, after = before["dice"], after["dice"]
            unit = "" if key == "overlap" else f" {length}"
            parts.append(f"{name} {before:.2f} → {after:.2f}{unit}")
    return f"{pair}: {', '.join(parts)}"


if __name__ == "__main__":
    fire.Fire(main)
