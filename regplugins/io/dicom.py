# SPDX-License-Identifier: Apache-2.0
"""DICOM volumes, a folder with one series or a multi-frame file, read through ITK."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import itk
import numpy as np

from regplugins.io.reading import check_single_channel, reading

if TYPE_CHECKING:
    from pydicom import Dataset

_SUFFIXES = (".dcm", ".dicom", ".ima")
_POSITION = "0020|0032"
_ORIENTATION = "0020|0037"
_PIXEL_SPACING = "0028|0030"
_INSTANCE_NUMBER = "0020|0013"
_THICKNESS = "0018|0050"
_DISTANCE = "0018|0088"
_OFFSETS = "3004|000c"
_DOSE_SCALING = "3004|000e"
_SLOPE = "0028|1053"
_INTERCEPT = "0028|1052"
# Slope, intercept, bits stored and sign, with their defaults: the type of a slice's values depends on them.
_VALUES = {_SLOPE: 1.0, _INTERCEPT: 0.0, "0028|0101": 16.0, "0028|0103": 0.0}
_SLICE_TAGS = (_POSITION, _ORIENTATION, _PIXEL_SPACING, _INSTANCE_NUMBER, _THICKNESS, *_VALUES)
# Sequences of functional groups that hold the tags of a multi-frame file's frames.
_FRAME_TAGS = {
    _POSITION: "PlanePositionSequence",
    _ORIENTATION: "PlaneOrientationSequence",
    _PIXEL_SPACING: "PixelMeasuresSequence",
    _SLOPE: "PixelValueTransformationSequence",
    _INTERCEPT: "PixelValueTransformationSequence",
}
# Largest deviation from even spacing, as a fraction of the distance between slices.
_UNEVEN = 0.1
# Largest in-plane shift between the first and the last slice, as a fraction of a pixel.
_TILTED = 0.1
# Largest distance between slices, as a multiple of their thickness. Gaps of 10 to 20 percent are usual in 2-D MR.
_GAP = 1.5
# Largest difference of the components of the unit vectors of two slices, and of their pixel spacings as a fraction.
_TURNED = 1e-3
_SCALED = 1e-3

_Tags = dict[str, list[float]]  # numbers of a slice's tags; none of one that is absent, empty or not numeric


def is_dicom(path: Path) -> bool:
    """Tell whether a file claims to be DICOM, by its suffix or its first bytes."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: Path) -> tuple[Any, list[str]]:
    """Read a folder with the slices of one series, beside files of other kinds, or a multi-frame file.

    Returns:
        3-D ITK image, and warnings about slices that may be missing and files that were not read.

    Raises:
        ValueError: if a file is damaged or of another series, slices are missing, unevenly spaced, tilted or oriented
            differently, have no geometry, or there is only one. The message names the folder and the files.
    """
    names = _series(path) if path.is_dir() else [str(path)]
    if len(names) == 1:
        return _read_frames(path, names[0]), []
    image, warnings = _read_slices(path, names)
    return image, warnings + _others_warnings(path, names)


def _series(folder: Path) -> list[str]:
    """Files of a folder's only series, in the order of their positions."""
    with reading(folder):
        finder = itk.GDCMSeriesFileNames.New()
        finder.SetUseSeriesDetails(True)
        finder.AddSeriesRestriction("0008|0021")
        finder.SetDirectory(str(folder))
        found = [list(finder.GetFileNames(uid)) for uid in finder.GetSeriesUIDs()]
    series = [names for names in found if not _is_index(names)]
    known = {Path(name).name for names in series for name in names}
    unread = sorted(file.name for file in folder.iterdir() if _expected(file) and file.name not in known)
    if unread:
        raise ValueError(
            f"{folder}: {', '.join(unread[:3])} cannot be read as DICOM slices ({len(unread)} files in all), the "
            "series would be incomplete; replace them, or remove what does not belong to it"
        )
    if not series:
        raise ValueError(f"{folder}: no DICOM files in this folder")
    if len(series) > 1:
        examples = " and ".join(Path(names[0]).name for names in series[:2])
        raise ValueError(
            f"{folder}: more than one DICOM series (such as those of {examples}); give each its own folder"
        )
    return series[0]


def _others_warnings(folder: Path, names: Sequence[str]) -> list[str]:
    """A warning of files in a folder and below it that are no slices: a slice may be among them."""
    read = {Path(name).name for name in names}
    files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and not _is_index([file.name])]
    others = sorted(
        file.as_posix()
        for file in files
        if file.as_posix() not in read and not any(part.startswith(".") for part in file.parts)
    )
    if not others:
        return []
    more = ", ..." if len(others) > 3 else ""
    return [f"{folder}: files that are not read as slices of its series ({len(others)}): {', '.join(others[:3])}{more}"]


def _is_index(names: Sequence[str]) -> bool:
    return [Path(name).name.upper() for name in names] == ["DICOMDIR"]


def _expected(file: Path) -> bool:
    """Tell whether a file should be a slice: not a hidden companion file, nor the medium's index.

    On media, slices have no suffix, or one that ends in a number as UIDs do.
    """
    if not file.is_file() or file.name.startswith(".") or _is_index([file.name]):
        return False
    return not any(character.isalpha() for character in file.suffix) or is_dicom(file)


def _read_slices(folder: Path, names: Sequence[str]) -> tuple[Any, list[str]]:
    with reading(folder):
        reader = _series_reader(itk.ImageSeriesReader, names)
        slices = [_slice_tags(header) for header in reader.GetMetaDataDictionaryArray()]
        if len({tuple(tuple(tags[tag] or [usual]) for tag, usual in _VALUES.items()) for tags in slices}) > 1:
            # ITK would convert all values to the type of the first slice.
            reader = _series_reader(itk.ImageSeriesReader[itk.Image[itk.F, 3]], names)
    names, image = [Path(name).name for name in names], reader.GetOutput()
    _check_placed_alike(folder, names, slices)
    distance = _check_stack(folder, names, slices, list(image.GetSpacing())[:2])
    thickness = slices[0][_THICKNESS]
    warnings = _number_warnings(folder, [tags[_INSTANCE_NUMBER] for tags in slices])
    if thickness and 0 < _GAP * thickness[0] < distance:
        gap = f"slices of {thickness[0]:.4g} mm lie {distance:.4g} mm apart: every second may be missing"
        warnings = [f"{folder}: {gap}", *warnings]
    return image, warnings


def _series_reader(kind: Any, names: Sequence[str]) -> Any:
    """ITK's reader of a series, its slices read."""
    reader = kind.New(FileNames=names)
    reader.SetSpacingWarningRelThreshold(math.inf)  # slices are checked here
    reader.Update()
    return reader


def _read_frames(path: Path, name: str) -> Any:
    """Read a multi-frame file in the order of its frames' positions, of which ITK takes two or none."""
    import pydicom  # takes 0.2 s, for which other images need not wait

    with reading(path):
        reader = itk.GDCMImageIO.New()
        image = itk.imread(name, imageio=reader)
        # ITK has read it: also without the prefix.
        frames = _frame_tags(pydicom.dcmread(name, stop_before_pixels=True, force=True))
    check_single_channel(path, image.GetNumberOfComponentsPerPixel())
    if len(frames) == 1:
        raise ValueError(f"{path}: a single DICOM slice, not a volume; give the folder that holds its whole series")
    stored = image.GetLargestPossibleRegion().GetSize()[2]
    if len(frames) != stored:
        raise ValueError(f"{path}: describes {len(frames)} frames but holds {stored}: damaged")
    names = [f"frame {k}" for k in range(1, len(frames) + 1)]
    _check_placed_alike(path, names, frames)
    rows, columns = np.reshape(frames[0][_ORIENTATION], (2, 3))
    normal = np.cross(rows, columns)
    positions = [tags[_POSITION] if len(tags[_POSITION]) == 3 else np.zeros(3) for tags in frames]
    order = np.argsort([normal @ position for position in positions], kind="stable")
    names, frames = [names[k] for k in order], [frames[k] for k in order]
    spacing = frames[0][_PIXEL_SPACING][::-1]
    if len(spacing) != 2:
        raise ValueError(f"{path}: frames have no pixel spacing (tag {_PIXEL_SPACING})")
    spacing = [*spacing, _check_stack(path, names, frames, spacing)]
    values = itk.array_view_from_image(image)[order]
    scales = np.array([[*(tags[_SLOPE] or [1.0]), *(tags[_INTERCEPT] or [0.0])] for tags in frames])
    applied = reader.GetRescaleSlope(), reader.GetRescaleIntercept()
    if not np.allclose(scales, applied, rtol=1e-6, atol=0):  # ITK takes those of the first frame for all, and no dose's
        slope, intercept = scales.T[:, :, None, None]
        values = ((values - applied[1]) / applied[0] * slope + intercept).astype(np.float32)
    volume = itk.image_from_array(values)
    volume.SetSpacing(spacing)
    volume.SetOrigin(frames[0][_POSITION])
    volume.SetDirection(np.column_stack([rows, columns, normal]))
    return volume


def _slice_tags(header: Any) -> _Tags:
    """Numbers of the tags of ITK's dictionary of a slice."""
    return {tag: _numbers(header[tag].split("\\") if header.HasKey(tag) else []) for tag in _SLICE_TAGS}


def _frame_tags(header: Dataset) -> list[_Tags]:
    """Numbers of the tags of each frame: its own, those that all frames share, or those of the file.

    Without positions of frames, they follow from that of the file and the frames' offsets or distance.
    """
    number = int(header.get("NumberOfFrames") or 1)
    shared = header.get("SharedFunctionalGroupsSequence", [])
    own = header.get("PerFrameFunctionalGroupsSequence", []) or [{}] * number
    detectors = header.get("DetectorInformationSequence", [])[:1]  # of nuclear medicine
    frames = []
    for groups in own:
        items = {tag: _items(sequence, groups, *shared) for tag, sequence in _FRAME_TAGS.items()}
        frames.append({tag: _first_numbers([*found, header, *detectors], tag) for tag, found in items.items()})
        if dose := _first_numbers([header], _DOSE_SCALING):
            frames[-1][_SLOPE] = dose
    offsets = _first_numbers([header], _OFFSETS)
    if step := _first_numbers([header], _DISTANCE):
        offsets = offsets or [step[0] * k for k in range(number)]
    if not any(_items(_FRAME_TAGS[_POSITION], groups) for groups in own) and len(offsets) == len(frames):
        for tags, offset in zip(frames, offsets, strict=True):
            if len(tags[_POSITION]) == 3 and len(tags[_ORIENTATION]) == 6:
                normal = np.cross(*np.reshape(tags[_ORIENTATION], (2, 3)))
                tags[_POSITION] = list(tags[_POSITION] + (offset - offsets[0]) * normal)
    return frames


def _items(sequence: str, *groups: Mapping[str, Any] | Dataset) -> list[Dataset]:
    """Items of a sequence in several data sets."""
    return [item for group in groups for item in group.get(sequence, [])]


def _first_numbers(datasets: Sequence[Dataset], tag: str) -> list[float]:
    """Numbers of a tag in the first data set that has it."""
    for dataset in datasets:
        element = dataset.get(int(tag.replace("|", ""), 16))
        if element is not None and element.VM:
            return _numbers([element.value] if element.VM == 1 else element.value)
    return []


def _numbers(values: Sequence[Any]) -> list[float]:
    """Values of a tag as numbers; none if one is not a finite number."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def _check_placed_alike(folder: Path, names: Sequence[str], slices: Sequence[_Tags]) -> None:
    """Refuse slices of another orientation or pixel spacing than the first one: ITK would take its for all."""
    orientation, spacing = slices[0][_ORIENTATION], slices[0][_PIXEL_SPACING]
    for name, tags in zip(names, slices, strict=True):
        own = tags[_ORIENTATION]
        if len(own) != 6:
            raise ValueError(f"{folder}: slices have no orientation (tag {_ORIENTATION}), such as {name}")
        if not np.allclose(own, orientation, rtol=0, atol=_TURNED):
            raise ValueError(
                f"{folder}: {name} is oriented differently from {names[0]} (tag {_ORIENTATION}); give slices of one "
                "orientation in a folder of their own"
            )
        own = tags[_PIXEL_SPACING]
        if len(own) != len(spacing) or not np.allclose(own, spacing, rtol=_SCALED, atol=0):
            raise ValueError(
                f"{folder}: {name} has another pixel spacing than {names[0]} (tag {_PIXEL_SPACING}); give slices of "
                "one spacing in a folder of their own"
            )


def _check_stack(folder: Path, names: Sequence[str], slices: Sequence[_Tags], pixel: Sequence[float]) -> float:
    """Distance of slices, mm; refuses those that ITK would space evenly and stack orthogonally though they are not."""
    positions: dict[tuple[float, ...], str] = {}
    for name, tags in zip(names, slices, strict=True):
        position = tuple(tags[_POSITION])
        if len(position) != 3:
            raise ValueError(f"{folder}: {name} has no position (tag {_POSITION}), slices cannot be ordered")
        if position in positions:
            raise ValueError(
                f"{folder}: {positions[position]} and {name} have the same position; of a time series, or of several "
                "contrasts, give one volume in a folder of its own"
            )
        positions[position] = name
    origins = np.array(list(positions))
    _check_even(folder, names, origins)
    stack = origins[-1] - origins[0]
    _check_tilt(folder, stack, slices[0][_ORIENTATION], _TILTED * min(pixel))
    return float(np.linalg.norm(stack)) / (len(names) - 1)


def _check_even(folder: Path, names: Sequence[str], positions: np.ndarray) -> None:
    """Refuse slices that are not evenly spaced along a line; ITK would space them evenly."""
    gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    usual = float(np.median(gaps))
    even = np.linspace(positions[0], positions[-1], len(positions))
    if np.linalg.norm(positions - even, axis=1).max() > _UNEVEN * usual:
        worst = int(np.abs(gaps - usual).argmax())
        raise ValueError(
            f"{folder}: slices are not evenly spaced: {gaps[worst]:.4g} mm between {names[worst]} and "
            f"{names[worst + 1]}, most are {usual:.4g} mm apart; add the missing slices, or resample the series"
        )


def _check_tilt(folder: Path, stack: np.ndarray, orientation: Sequence[float], tolerance: float) -> None:
    """Refuse slices that are shifted in their plane; ITK would stack them orthogonally.

    ``stack`` leads from the first to the last slice, which may be shifted by ``tolerance``, mm.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    along, shift = abs(float(stack @ normal)), float(np.linalg.norm(np.cross(stack, normal)))
    if shift > tolerance:
        raise ValueError(
            f"{folder}: slices are tilted against their stacking direction by "
            f"{math.degrees(math.atan2(shift, along)):.2g} degrees (gantry tilt); resample the series first"
        )


def _number_warnings(folder: Path, numbers: Sequence[Sequence[float]]) -> list[str]:
    """Warn of instance numbers that are missing from 0 or 1 on, or that rise by more than one."""
    known = sorted({int(number) for one in numbers for number in one})
    steps = np.diff(known)
    if len(known) != len(numbers):
        return []
    if len(known) > 2 and steps.min() == steps.max() > 1:
        first = ", ".join(map(str, known[:3]))
        missing = f"{steps[0] - 1} of {steps[0]} slices may be missing, unless several series are interleaved"
        return [f"{folder}: instance numbers {first}, ...: {missing}"]
    if 2 * np.count_nonzero(steps == 1) < len(known):
        return []
    gaps = [(a + 1, b - 1) for a, b in pairwise([min(1, known[0]) - 1, *known]) if b - a > 1]
    if not gaps:
        return []
    missing = ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in gaps)
    return [f"{folder}: slice numbers {missing} are missing (InstanceNumber), the series may be incomplete"]
