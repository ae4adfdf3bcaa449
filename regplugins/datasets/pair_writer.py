# SPDX-License-Identifier: Apache-2.0
"""Writer of a pair's files and its record in a datalist."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from regplugins.io import write_image
from regplugins.spatial import Grid


class PairWriter:
    """Write a pair's files into a folder of its own and collect their paths in ``record``.

    Args:
        target: folder of the datalist.
        name: of the pair; its files go into ``pairs/<name>`` below the target.
    """

    def __init__(self, target: Path, name: str) -> None:
        self.target = target
        self.folder = target / "pairs" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.record = {"name": name}

    def path(self, key: str, suffix: str = ".nii.gz") -> Path:
        """Add a file to the record; its path."""
        path = self.folder / f"{key}{suffix}"
        self.record[key] = str(path.relative_to(self.target))
        return path

    def image(self, key: str, values: Tensor, grid: Grid) -> None:
        """Write an image ``(1, *spatial)`` on its grid."""
        write_image(values, grid, self.path(key))

    def label(self, key: str, values: Tensor, grid: Grid) -> None:
        """Write labels below 256, ``(1, *spatial)``, on their grid."""
        write_image(values, grid, self.path(key), np.uint8)
