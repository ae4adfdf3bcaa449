# SPDX-License-Identifier: Apache-2.0
"""DICOM: the one series of a folder, or a multi-frame file, through ITK."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np

from regplugins.io.reading import reading

_SUFFIXES = (".dcm", ".dicom", ".ima")
_POSITION = "0020|0032"
# Fraction of the distance between slices: one that lies farther from its place is missing a neighbor.
_UNEVEN = 0.1


def is_dicom(path: Path) -> bool:
    """Whether a file is meant as DICOM, by its ending or by its first bytes."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: Path) -> Any:
    """Read a volume.

    Args:
        path: folder with the slices of one series (other kinds of files may lie beside them), or a multi-frame file.

    Returns:
        3-D ITK image.

    Raises:
        ValueError: if a file of the folder is damaged or of another series, a slice is missing, or there is but one.
            The message names the folder and the files.
    """
    names = _series(path) if path.is_dir() else [str(path)]
    if len(names) > 1:
        return _read_slices(path, names)
    with reading(path):
        image = itk.imread(names[0])
    if image.GetLargestPossibleRegion().GetSize()[2] == 1:
        raise ValueError(f"{path}: a single DICOM slice, not a volume; give the folder that holds its whole series")
    return image


def _series(folder: Path) -> list[str]:
    """The files of a folder's only series, in the order of their positions."""
    with reading(folder):
        finder = itk.GDCMSeriesFileNames.New()
        finder.SetUseSeriesDetails(True)
        finder.AddSeriesRestriction("0008|0021")
        finder.SetDirectory(str(folder))
        found = [list(finder.GetFileNames(uid)) for uid in finder.GetSeriesUIDs()]
    series = [names for names in found if not _is_index(names)]
    known = {Path(name).name for names in series for name in names}
    lost = sorted(file.name for file in folder.iterdir() if _expected(file) and file.name not in known)
    if lost:
        raise ValueError(
            f"{folder}: {', '.join(lost[:3])} cannot be read as DICOM slices ({len(lost)} files in all), the series "
            "would be incomplete; replace them, or remove what does not belong to it"
        )
    if not series:
        raise ValueError(f"{folder}: no DICOM files in this folder")
    if len(series) > 1:
        examples = " and ".join(Path(names[0]).name for names in series[:2])
        raise ValueError(
            f"{folder}: more than one DICOM series (such as those of {examples}); give each its own folder"
        )
    return series[0]


def _is_index(names: Sequence[str]) -> bool:
    return [Path(name).name.upper() for name in names] == ["DICOMDIR"]


def _expected(file: Path) -> bool:
    """Whether a file ought to be a slice: not hidden, as some systems' companion files are, nor the medium's index."""
    return file.is_file() and not file.name.startswith(".") and not _is_index([file.name]) and is_dicom(file)


def _read_slices(folder: Path, names: Sequence[str]) -> Any:
    with reading(folder):
        reader = itk.ImageSeriesReader.New(FileNames=names)
        reader.SetSpacingWarningRelThreshold(math.inf)  # slices are checked here
        reader.Update()
        headers = reader.GetMetaDataDictionaryArray()
    positions: dict[tuple[float, ...], str] = {}
    for name, header in zip((Path(name).name for name in names), headers, strict=True):
        if not header.HasKey(_POSITION):
            raise ValueError(f"{folder}: {name} does not say where it lies (tag {_POSITION}), slices cannot be ordered")
        position = tuple(float(number) for number in header[_POSITION].split("\\"))
        if position in positions:
            raise ValueError(
                f"{folder}: {positions[position]} and {name} lie at one position; of a time series, or of several "
                "contrasts, give one volume in a folder of its own"
            )
        positions[position] = name
    _check_even(folder, list(positions.values()), np.array(list(positions)))
    return reader.GetOutput()


def _check_even(folder: Path, names: Sequence[str], positions: np.ndarray) -> None:
    """Refuse slices that are not evenly spaced along a line: ITK would spread them over what lies between the ends."""
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    usual = float(np.median(gaps))
    even = np.linspace(positions[0], positions[-1], len(positions))
    if np.linalg.norm(positions - even, axis=1).max() > _UNEVEN * usual:
        worst = int(np.abs(gaps - usual).argmax())
        raise ValueError(
            f"{folder}: slices are not evenly spaced: {gaps[worst]:.4g} mm between {names[worst]} and "
            f"{names[worst + 1]}, most are {usual:.4g} mm apart; add the missing slices, or resample the series"
        )
