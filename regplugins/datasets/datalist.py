# SPDX-License-Identifier: Apache-2.0
"""``datalist.json`` of a data set, and the files of its pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from regplugins.io import atomic, read_landmark_names, read_landmarks, write_image, write_landmarks
from regplugins.spatial import Grid

Record = Mapping[str, str]
Sections = Mapping[str, Sequence[Record]]

# Keys of a record that do not name a file.
_NOT_FILES = ("name", "subject", "sequence")


def pair(name: str, fixed: str, moving: str, **suffixes: str) -> dict[str, str]:
    """Record of a pair of images ``<stem>.nii.gz``, whose stems are paths in the data set's folder.

    ``suffixes`` tells for each further kind of file (``label``, ``landmarks``, ``mask``) what follows the stem.
    """
    record = {"name": name, "fixed": f"{fixed}.nii.gz", "moving": f"{moving}.nii.gz"}
    for kind, suffix in suffixes.items():
        record |= {f"fixed_{kind}": fixed + suffix, f"moving_{kind}": moving + suffix}
    return record


def write_datalist(sections: Sections, target: Path) -> Path:
    """Write sections of records as ``datalist.json`` in a folder, made if need be; its path."""
    target.mkdir(parents=True, exist_ok=True)
    with atomic(target / "datalist.json") as temporary:
        temporary.write_text(json.dumps(sections, indent=2) + "\n", encoding="utf-8")
    return target / "datalist.json"


def prepare_files(sections: Sections) -> Callable[[Path, Path], Path]:
    """Preparation of a data set whose files are used as they are: a function of its folder and of the target folder.

    Landmarks, LPS in the data sets, are written as RAS+ into ``landmarks`` of the target folder: evaluation reads RAS+.
    The function returns the path of ``datalist.json``. It raises ``FileNotFoundError`` if a file is missing, before it
    writes anything.
    """

    def prepare(source: Path, target: Path) -> Path:
        for record in (record for records in sections.values() for record in records):
            for name in (value for key, value in record.items() if key not in _NOT_FILES):
                if not (source / name).is_file():
                    raise FileNotFoundError(f"{source / name}: no such file; give the data set's folder as --source")
        listed = {name: [_listed(record, source, target) for record in records] for name, records in sections.items()}
        return write_datalist(listed, target)

    return prepare


def _listed(record: Record, source: Path, target: Path) -> dict[str, str]:
    files = {key: str(source / name) for key, name in record.items() if key not in _NOT_FILES}
    landmarks = {key: ras_landmarks(source, record[key], target) for key in files if key.endswith("_landmarks")}
    return {**record, **files, **landmarks}


def ras_landmarks(source: Path, name: str, target: Path) -> str:
    """Write LPS landmarks of a data set as RAS+ into ``landmarks`` of a folder; their path in that folder."""
    path = target / "landmarks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_landmarks(read_landmarks(source / name, "LPS"), path, "RAS", read_landmark_names(source / name))
    return str(path.relative_to(target))


class PairWriter:
    """Write a pair's files into ``pairs/<name>`` of the datalist's folder, and collect their paths in ``record``."""

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
