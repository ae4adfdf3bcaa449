# SPDX-License-Identifier: Apache-2.0
"""Files of a pair that a data set is prepared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from regplugins.io import write_image
from regplugins.spatial import Grid


class PairWriter:
    """Writes a pair's files into a folder of its own and keeps the record of them, ``record``.

    Args:
        target: folder of the datalist.
        name: of the pair; its files go into ``pairs/<name>`` below the folder.
    """

    def __init__(self, target: Path, name: str) -> None:
        self.target = target
        self.folder = target / "pairs" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.record = {"name": name}

    def path(self, key: str, suffix: str = ".nii.gz") -> Path:
        path = self.folder / f"{key}{suffix}"
        self.record[key] = str(path.relative_to(self.target))
        return path

    def image(self, key: str, values: Tensor, grid: Grid) -> None:
        write_image(values, grid, self.path(key))

    def label(self, key: str, values: Tensor, grid: Grid) -> None:
        write_image(values, grid, self.path(key), np.uint8)
