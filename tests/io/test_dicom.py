# SPDX-License-Identifier: Apache-2.0
"""Series of DICOM slices that are whole, and that are not."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regplugins.io.volumes import read_volume
from tests.itk_truth import array_of, make_grid, rotation, sitk_image, write_series

GRID = make_grid((12, 10, 7), rotation(3, 20) @ np.diag([-1.0, -1, 1]), (1.5, 1.5, 3.0), (12.0, -30.0, 41.0))
IMAGE = sitk_image(torch.arange(GRID.shape[0] * GRID.shape[1] * 7, dtype=torch.int16).view(GRID.shape), GRID)


@pytest.fixture
def slices(tmp_path: Path) -> list[Path]:
    write_series(IMAGE, tmp_path / "series", "1.2.3.4")
    return sorted((tmp_path / "series").iterdir())


def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    """A data element, explicit little endian."""
    value += bytes(len(value) % 2)
    return struct.pack("<HH2sH", group, number, kind, len(value)) + value


def dicom(sop_class: bytes, content: bytes) -> bytes:
    meta = element(2, 2, b"UI", sop_class) + element(2, 3, b"UI", b"1.2.9")
    meta += element(2, 16, b"UI", b"1.2.840.10008.1.2.1")
    return bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta + content


def test_what_is_no_slice_may_lie_beside_a_series(slices: list[Path]) -> None:
    folder = slices[0].parent
    (folder / "readme.txt").write_text("a scan")
    (folder / "scan.json").write_text("{}")
    (folder / "._0.dcm").write_bytes(b"companion of another system")
    (folder / "DICOMDIR").write_bytes(dicom(b"1.2.840.10008.1.3.10", element(4, 0x1130, b"CS", b"SET")))
    values, grid, _ = read_volume(folder)
    np.testing.assert_array_equal(values, array_of(IMAGE))
    assert grid.matches(GRID)


@pytest.mark.parametrize("missing", [(3,), (3, 4)])
def test_a_missing_slice_is_located(slices: list[Path], missing: tuple[int, ...]) -> None:
    for k in missing:
        slices[k].unlink()
    gap = f"{3 * (len(missing) + 1)} mm between {slices[2].name} and {slices[missing[-1] + 1].name}"
    with pytest.raises(ValueError, match=rf"series: slices are not evenly spaced: {gap}, most are 3 mm apart"):
        read_volume(slices[0].parent)


@pytest.mark.parametrize("ending", [".dcm", ""])
@pytest.mark.parametrize("size", [200, -20])
def test_a_damaged_slice_is_not_dropped(slices: list[Path], ending: str, size: int) -> None:
    """In the last place, where nothing but its file tells of it."""
    last = slices[-1].rename(slices[-1].with_name(f"last{ending}"))
    last.write_bytes(last.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"series: last{ending} cannot be read as DICOM slices"):
        read_volume(last.parent)


def test_a_report_among_the_slices_is_named(slices: list[Path]) -> None:
    content = element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.88.11") + element(8, 0x60, b"CS", b"SR")
    (slices[0].parent / "findings.dcm").write_bytes(dicom(b"1.2.840.10008.5.1.4.1.1.88.11", content))
    with pytest.raises(ValueError, match=r"findings\.dcm cannot be read as DICOM slices"):
        read_volume(slices[0].parent)


def test_two_slices_of_one_place_are_named(slices: list[Path]) -> None:
    shutil.copy(slices[2], slices[0].with_name("copy.dcm"))
    with pytest.raises(ValueError, match=rf"({slices[2].name}|copy\.dcm) and .* lie at one position"):
        read_volume(slices[0].parent)


def test_slices_without_a_position_are_refused(slices: list[Path]) -> None:
    tag = struct.pack("<HH", 0x20, 0x32)
    for path in slices:  # a private number in place of the tag
        path.write_bytes(path.read_bytes().replace(tag, struct.pack("<HH", 0x20, 0x33)))
    with pytest.raises(ValueError, match="does not say where it lies"):
        read_volume(slices[0].parent)


def test_a_single_slice_points_to_its_folder(slices: list[Path]) -> None:
    with pytest.raises(ValueError, match=rf"{slices[2].name}: a single DICOM slice.*give the folder"):
        read_volume(slices[2])
    for path in slices[1:]:
        path.unlink()
    with pytest.raises(ValueError, match=r"series: a single DICOM slice"):
        read_volume(slices[0].parent)


def test_a_file_of_many_frames_is_a_volume(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Cast(IMAGE, sitk.sitkUInt16), str(tmp_path / "frames.dcm"))
    for path in (tmp_path / "frames.dcm", tmp_path):
        values, grid, _ = read_volume(path)
        np.testing.assert_array_equal(values, array_of(IMAGE))
        assert grid.matches(GRID)
