# SPDX-License-Identifier: Apache-2.0
"""Histology: two pairs of differently stained neighboring slices, 2-D, with landmarks.

One pixel is 1 mm, x to the right and y down from the center of the first pixel, as ITK reads a PNG.
"""

from __future__ import annotations

import csv
from functools import partial
from itertools import islice
from pathlib import Path

from PIL import Image

from regplugins.datasets.base import DataSet, Source, checksums, github
from regplugins.datasets.datalist import ras_landmarks, write_datalist
from regplugins.io import atomic
from regplugins.io.files import existing

# Fixed and moving stain of each pair, landmarks that both images show, and how the published files' paths begin.
PAIRS = {
    "rat_kidney": (("HE", "PanCytokeratin"), 69, "rat-kidney_/scale-5pc/Rat-Kidney"),
    "lung_lesion": (("HE", "proSPC"), 78, "lesions_/scale-5pc/Izd2-29-041-w35"),
}


def pixels_to_csv(published: Path, path: Path, count: int) -> None:
    """Write the first points of a table with the columns X and Y, named by their number from 0."""
    with published.open(newline="", encoding="utf-8") as file:
        rows = [f"{row['X']},{row['Y']},{number}" for number, row in enumerate(islice(csv.DictReader(file), count))]
    path.write_text("\n".join(["x,y,name", *rows]) + "\n", encoding="utf-8")


def _sources() -> dict[str, Source]:
    found = {}
    for name, (stains, count, start) in PAIRS.items():
        for stain in stains:
            url = github("Borda/BIRL", "f1648b2", f"data-images/{start}_{stain}")
            found[f"{name}_{stain}.jpg"] = Source(f"{url}.jpg")
            found[f"{name}_{stain}_landmarks.csv"] = Source(f"{url}.csv", partial(pixels_to_csv, count=count))
    return found


def _prepare(source: Path, target: Path) -> Path:
    for name in DATASET.checksums:
        existing(source / name)
    records = []
    for name, (stains, *_) in PAIRS.items():
        record = {"name": name}
        for side, stain in zip(("fixed", "moving"), stains, strict=True):
            record[side] = _luminance(source / f"{name}_{stain}.jpg", target)
            record[f"{side}_landmarks"] = ras_landmarks(source, f"{name}_{stain}_landmarks.csv", target)
        records.append(record)
    return write_datalist({"report": records}, target)


def _luminance(photograph: Path, target: Path) -> str:
    """Write a photograph in gray and without its resolution, which ITK would take for the spacing; its path."""
    path = target / "images" / f"{photograph.stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        Image.open(photograph).convert("L").save(temporary)
    return str(path.relative_to(target))


DATASET = DataSet(
    name="histology_2d",
    title="two pairs of histological slices in different stains, 69 and 78 landmarks",
    license="BSD-3-Clause (BIRL; Borovec et al.)",
    origin="github.com/Borda/BIRL",
    prepare=_prepare,
    checksums=checksums("histology_2d"),
    sources=_sources(),
)
