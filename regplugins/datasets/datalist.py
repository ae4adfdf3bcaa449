# SPDX-License-Identifier: Apache-2.0
"""``datalist.json`` of data sets whose files are used as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from regplugins.io import atomic, read_landmark_names, read_landmarks, write_landmarks

Record = Mapping[str, str]
Sections = Mapping[str, Sequence[Record]]

# Keys of a record that do not name a file.
_NOT_FILES = ("name", "subject", "sequence")


def pair(name: str, fixed: str, moving: str, **suffixes: str) -> dict[str, str]:
    """Record of a pair of images ``<stem>.nii.gz``.

    Args:
        name: of the pair.
        fixed: stem of the fixed image, a path in the data set's folder.
        moving: stem of the moving image.
        suffixes: for each further kind of file (``label``, ``landmarks``, ``mask``) what follows the stem.
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
    """Preparation of a data set whose files are used as they are.

    Landmarks, LPS in the data sets, are written as RAS+ into ``landmarks`` of the target folder: evaluation reads RAS+.

    Args:
        sections: records whose files are paths in the data set's folder.

    Returns:
        A function of that folder and the target folder, which returns the path of ``datalist.json``. It raises
        ``FileNotFoundError`` if a file is missing, before it writes anything.
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
    return {
        key: value
        if key in _NOT_FILES
        else ras_landmarks(source, value, target)
        if key.endswith("_landmarks")
        else str(source / value)
        for key, value in record.items()
    }


def ras_landmarks(source: Path, name: str, target: Path) -> str:
    """Write LPS landmarks of a data set as RAS+ into ``landmarks`` of a folder; their path in that folder."""
    path = target / "landmarks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_landmarks(read_landmarks(source / name, "LPS"), path, "RAS", read_landmark_names(source / name))
    return str(path.relative_to(target))
