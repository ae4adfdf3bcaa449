# SPDX-License-Identifier: Apache-2.0
"""Names and sizes of the files that a bundle and its archive may hold."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

LARGE_FILES = "large_files.yml"
# Bytes of an unpacked file and of all of them: weights have 25 MB at most by convention, and bundles a few such files.
_LARGEST_FILE = 50_000_000
_LARGEST_BUNDLE = 200_000_000
# Text may shrink to a tenth; an archive with a higher ratio was made to fill a disk.
_LARGEST_RATIO = 100
# What a bundle is made of; anything else in its folder, results and data sets above all, is left out.
_PARTS = {
    "LICENSE": "",
    LARGE_FILES: "",
    "configs": "*.json *.yaml *.yml *.conf",
    "docs": "*.md *.txt *.png *.jpg *.svg",
    "models": "*.pt",
    "sample": "*.nii.gz *.csv *.txt",
}


def part_of(name: str) -> str:
    return PurePosixPath(name).parts[0]


def belongs(name: str) -> bool:
    """Tell whether a bundle may hold a file of this name, relative to its folder."""
    path = PurePosixPath(name)
    patterns = _PARTS.get(path.parts[0])
    if patterns is None or any(part.startswith(".") for part in path.parts):  # ".." too
        return False
    return len(path.parts) == 1 if not patterns else any(path.match(pattern) for pattern in patterns.split())


def archive_fault(infos: Sequence[zipfile.ZipInfo]) -> str:
    """Reason to refuse an archive, the end of a sentence; empty if its entries are those of one bundle."""
    entries = [entry for entry in infos if not entry.is_dir()]
    if not entries:
        return "is empty"
    for entry in infos:
        if not _is_safe(entry):
            return f"holds {entry.filename!r}"
    return _fault_of_names(entry.filename for entry in entries) or size_fault(
        (entry.filename, entry.file_size, entry.compress_size) for entry in entries
    )


def _is_safe(entry: zipfile.ZipInfo) -> bool:
    """Tell whether an entry is a folder, or a regular file that a bundle may hold, inside the archive's folder."""
    place = PurePosixPath(entry.filename)
    plain = entry.filename.isprintable() and "\\" not in entry.filename and ".." not in place.parts
    if not plain or place.is_absolute() or not place.parts or place.parts[0].startswith("."):
        return False
    inside = PurePosixPath(*place.parts[1:])
    is_regular = stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)
    return entry.is_dir() or bool(is_regular and inside.parts and belongs(inside.as_posix()))


def _fault_of_names(names: Iterable[str]) -> str:
    """Files of several folders, or that would take each other's place, as on file systems that ignore case."""
    places = [PurePosixPath(name) for name in names]
    roots = sorted({place.parts[0] for place in places})
    if len(roots) > 1:
        return f"holds several folders: {', '.join(map(repr, roots))}"
    same: dict[str, list[str]] = {}
    for place in places:
        same.setdefault(str(place).casefold(), []).append(str(place))
    for first, *others in same.values():
        if others:
            return f"holds {first!r} " + ("twice" if others[0] == first else f"and {others[0]!r}, which differ in case")
    for place in places:
        for folder in place.parents:
            if str(folder).casefold() in same:
                return f"holds {str(folder)!r} as a file and as a folder"
    return ""


def size_fault(files: Iterable[tuple[str, int, int]]) -> str:
    """Sizes that no bundle has; of each file its name, its bytes, and those that it takes in an archive."""
    total = 0
    for name, size, packed in files:
        total += size
        if size > _LARGEST_FILE:
            return f"holds {name!r} of {size / 1e6:.0f} MB, a file has at most {_LARGEST_FILE / 1e6:.0f} MB"
        if size > _LARGEST_RATIO * packed:
            return f"holds {name!r}, which becomes more than {_LARGEST_RATIO} times as large"
    if total > _LARGEST_BUNDLE:
        return f"would take {total / 1e6:.0f} MB, a bundle has at most {_LARGEST_BUNDLE / 1e6:.0f} MB"
    return ""
