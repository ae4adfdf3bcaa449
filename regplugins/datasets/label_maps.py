# SPDX-License-Identifier: Apache-2.0
"""Label maps without images, to render random contrasts from; ``--source`` only.

Their preparation (crops, thresholds, merged labels) is not fully described. A map overlaps with other data sets where
``maps.csv`` says so; leave it out of a training whose result is reported on these.
"""

from __future__ import annotations

import csv
from pathlib import Path

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import prepare_files
from regplugins.io.files import existing

# What the weights of a training may be used for; those that ship rest on ``free`` alone.
USES = ("free", "copyleft", "restricted")


def _prepare(source: Path, target: Path) -> Path:
    with existing(source / "maps.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sections = {
        use: [{"name": row["file"], "label": f"{row['file']}.nii.gz"} for row in rows if row["use"] == use]
        for use in USES
    }
    return prepare_files(sections)(source, target)


DATASET = DataSet(
    name="label_maps",
    title="69 label maps of many anatomies with maps.csv and labels.csv",
    license="each its own, column terms of maps.csv",
    origin="column source of maps.csv",
    prepare=_prepare,
    checksums=checksums("label_maps"),
)
