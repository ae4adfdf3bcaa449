# SPDX-License-Identifier: Apache-2.0
"""Complete and incomplete series of DICOM slices."""

import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch

from regplugins.io.images import read_volume
from tests.itk_truth import array_of, make_grid, rotation, sitk_image, write_series

MISSING = "slice numbers {} are missing (InstanceNumber), the series may be incomplete"
STRIDE = "instance numbers {}, ...: {} slices may be missing, unless several series are interleaved"
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
    for ending in ("xml", "csv", "pdf", "jpg", "png", "nii.gz"):
        (folder / f"scan.{ending}").write_bytes(b"")
    values, grid, warnings = read_volume(folder)
    np.testing.assert_array_equal(values, array_of(IMAGE))
    assert grid.matches(GRID)
    assert warnings == [
        f"{folder}: files that are not read as slices of its series (8): readme.txt, scan.csv, scan.jpg, ..."
    ]


@pytest.mark.parametrize("name", ["006.tmp", "below/006.dcm"])
def test_a_slice_that_is_not_read_is_warned_of(slices: list[Path], name: str) -> None:
    other = slices[0].parent / name
    other.parent.mkdir(exist_ok=True)
    slices[-1].rename(other)
    if other.suffix == ".tmp":
        other.write_bytes(other.read_bytes()[:120])
    assert warnings_of(slices) == [f"files that are not read as slices of its series (1): {name}"]


def test_a_slice_of_another_orientation_is_refused(slices: list[Path]) -> None:
    turned = "\\".join(f"{x:.9f}" for x in rotation(3, 21)[:, :2].T.ravel())
    rewrite(slices[4:5], "0020|0037", [turned])
    with pytest.raises(ValueError, match=rf"series: {slices[4].name} is oriented differently from .*0020\|0037"):
        read_volume(slices[0].parent)


def test_a_slice_of_another_pixel_spacing_is_refused(slices: list[Path]) -> None:
    plane = sitk.ReadImage(str(slices[4]))
    plane.SetSpacing([2 * step for step in plane.GetSpacing()])  # of which ITK writes the tag
    write_slice(plane, slices[4])
    with pytest.raises(ValueError, match=rf"series: {slices[4].name} has another pixel spacing than .*0028\|0030"):
        read_volume(slices[0].parent)


def test_values_that_are_scaled_slice_by_slice(slices: list[Path]) -> None:
    """Slope 3 in the first slice, whose values are whole numbers, and .5 in the others."""
    rewrite(slices, "0008|0060", ["CT"] * len(slices))
    rewrite(slices, "0028|1053", [3] * len(slices))
    # Implicit: a length of 4 bytes in place of a type.
    before, after = (struct.pack("<HHI", 0x28, 0x1053, 2) + slope for slope in (b"3 ", b".5"))
    stored = np.stack([array_of(sitk.ReadImage(str(path)))[..., 0] / 3 for path in slices], axis=-1)
    for path in slices[1:]:
        assert before in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(before, after))
    values, _, _ = read_volume(slices[0].parent)
    np.testing.assert_array_equal(values[..., 0], 3 * stored[..., 0])
    np.testing.assert_array_equal(values[..., 1:], stored[..., 1:] / 2)
    assert (values % 1 != 0).any()


def test_slices_of_another_type_than_the_first(slices: list[Path]) -> None:
    """Values above 32767 after a first slice of signed numbers."""
    for path in slices[1:]:
        plane = sitk.ReadImage(str(path))
        bright = sitk.Cast(plane, sitk.sitkUInt16) + 40_000
        for tag in plane.GetMetaDataKeys():
            if not tag.startswith("0028"):
                bright.SetMetaData(tag, plane.GetMetaData(tag))
        write_slice(bright, path)
    values, _, _ = read_volume(slices[0].parent)
    np.testing.assert_array_equal(values, array_of(IMAGE) + 40_000 * (np.arange(len(slices)) > 0))


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
    """The last slice, since a gap reveals any other."""
    last = slices[-1].rename(slices[-1].with_name(f"last{ending}"))
    last.write_bytes(last.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"series: last{ending} cannot be read as DICOM slices"):
        read_volume(last.parent)


@pytest.mark.parametrize("name", ["s006", "IM-0001-0006", "slice.006", "1.2.840.10008.6"])
@pytest.mark.parametrize("size", [0, 100])
def test_an_empty_or_cut_slice_without_a_suffix_is_not_dropped(slices: list[Path], name: str, size: int) -> None:
    for k, path in enumerate(slices):
        slices[k] = path.rename(path.with_name(f"s{k:03d}"))
    last = slices[-1].rename(slices[-1].with_name(name))
    read_volume(last.parent)
    last.write_bytes(last.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"series: {name} cannot be read as DICOM slices"):
        read_volume(last.parent)


def test_a_report_among_the_slices_is_named(slices: list[Path]) -> None:
    content = element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.88.11") + element(8, 0x60, b"CS", b"SR")
    (slices[0].parent / "findings.dcm").write_bytes(dicom(b"1.2.840.10008.5.1.4.1.1.88.11", content))
    with pytest.raises(ValueError, match=r"findings\.dcm cannot be read as DICOM slices"):
        read_volume(slices[0].parent)


def test_two_slices_of_one_place_are_named(slices: list[Path]) -> None:
    shutil.copy(slices[2], slices[0].with_name("copy.dcm"))
    with pytest.raises(ValueError, match=rf"({slices[2].name}|copy\.dcm) and .* have the same position"):
        read_volume(slices[0].parent)


@pytest.mark.parametrize(
    ("number", "message"), [(0x32, "has no position"), (0x37, r"slices have no orientation \(tag 0020\|0037\)")]
)
def test_slices_without_geometry_are_refused(slices: list[Path], number: int, message: str) -> None:
    for path in slices:  # a private number in place of the tag
        path.write_bytes(path.read_bytes().replace(struct.pack("<HH", 0x20, number), struct.pack("<HH", 0x20, 0x99)))
    with pytest.raises(ValueError, match=f"series: .*{message}"):
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


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    path = tmp_path / "frames.dcm"
    sitk.WriteImage(sitk.Cast(IMAGE, sitk.sitkUInt16), str(path))
    return path


def edit(path: Path, change: Callable[[pydicom.Dataset], None]) -> None:
    content = pydicom.dcmread(path)
    change(content)
    content.save_as(path)


def move(path: Path, positions: Sequence[Sequence[float]]) -> None:
    """Place frames anew."""

    def change(content: pydicom.Dataset) -> None:
        for groups, position in zip(content.PerFrameFunctionalGroupsSequence, positions, strict=True):
            groups.PlanePositionSequence[0].ImagePositionPatient = [f"{x:.6f}" for x in position]

    edit(path, change)


def place(k: float, shift: float = 0.0) -> Sequence[float]:
    """Position of a frame, shifted along its rows, mm."""
    return IMAGE.TransformContinuousIndexToPhysicalPoint((shift / 1.5, 0.0, float(k)))


@pytest.mark.parametrize("order", [(6, 5, 4, 3, 2, 1, 0), (0, 2, 4, 6, 1, 3, 5)])
def test_frames_are_ordered_by_position(frames: Path, order: Sequence[int]) -> None:
    move(frames, [place(k) for k in order])
    values, grid, _ = read_volume(frames)
    np.testing.assert_array_equal(values, array_of(IMAGE)[..., np.argsort(order)])
    assert grid.matches(GRID)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([place(k + (k > 2)) for k in range(7)], "not evenly spaced: 6 mm between frame 3 and frame 4, most are 3 mm"),
        ([place(k, 0.6 * k) for k in range(7)], r"tilted against their stacking direction by 11 degrees"),
        ([place(k % 4) for k in range(7)], "frame 1 and frame 5 have the same position"),
    ],
)
def test_frames_that_make_no_volume_are_refused(
    frames: Path, positions: Sequence[Sequence[float]], message: str
) -> None:
    move(frames, positions)
    with pytest.raises(ValueError, match=rf"frames\.dcm: .*{message}"):
        read_volume(frames)


def test_frames_that_are_oriented_differently_are_refused(frames: Path) -> None:
    def change(content: pydicom.Dataset) -> None:
        item = pydicom.Dataset()
        item.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        content.PerFrameFunctionalGroupsSequence[4].PlaneOrientationSequence = [item]

    edit(frames, change)
    with pytest.raises(ValueError, match=r"frames\.dcm: frame 5 is oriented differently from frame 1"):
        read_volume(frames)


def test_values_that_are_scaled_frame_by_frame(frames: Path) -> None:
    def change(content: pydicom.Dataset) -> None:
        for k, groups in enumerate(content.PerFrameFunctionalGroupsSequence):
            item = pydicom.Dataset()
            item.RescaleSlope, item.RescaleIntercept = 1 + 0.5 * k, -k
            groups.PixelValueTransformationSequence = [item]

    edit(frames, change)
    values, _, _ = read_volume(frames)
    np.testing.assert_array_equal(values, array_of(IMAGE) * (1 + 0.5 * np.arange(7)) - np.arange(7))


@pytest.mark.parametrize(
    ("tag", "content"), [("SpacingBetweenSlices", 3), ("GridFrameOffsetVector", [3 * k for k in range(7)])]
)
def test_frames_of_a_file_that_places_the_first_one(frames: Path, tag: str, content: object) -> None:
    """As nuclear medicine and radiotherapy doses do."""
    flatten(frames, **{tag: content})
    values, grid, _ = read_volume(frames)
    np.testing.assert_array_equal(values, array_of(IMAGE))
    assert grid.matches(GRID)


@pytest.mark.parametrize("step", [3, -3])
def test_frames_of_nuclear_medicine(frames: Path, step: int) -> None:
    """The place of the first one stands in the sequence of detectors. A negative step leads against the normal."""
    flatten(frames, SpacingBetweenSlices=step)

    def change(content: pydicom.Dataset) -> None:
        item = pydicom.Dataset()
        item.ImagePositionPatient = content.pop("ImagePositionPatient").value
        item.ImageOrientationPatient = content.pop("ImageOrientationPatient").value
        content.DetectorInformationSequence = [item]
        if step < 0:
            item.ImagePositionPatient = list(place(6))

    edit(frames, change)
    values, grid, _ = read_volume(frames)
    np.testing.assert_array_equal(values, array_of(IMAGE)[..., :: np.sign(step)])
    assert grid.matches(GRID)


def test_doses_are_those_of_their_scale(frames: Path) -> None:
    flatten(frames, GridFrameOffsetVector=[3 * k for k in range(7)], DoseGridScaling=0.25)
    np.testing.assert_array_equal(read_volume(frames)[0], array_of(IMAGE) / 4)


def test_frames_without_the_prefix_of_a_file(frames: Path) -> None:
    frames.write_bytes(frames.read_bytes()[132:])
    values, grid, _ = read_volume(frames)
    np.testing.assert_array_equal(values, array_of(IMAGE))
    assert grid.matches(GRID)


def test_frames_without_a_place_are_refused(frames: Path) -> None:
    flatten(frames)
    with pytest.raises(ValueError, match=r"frames\.dcm: frame 1 and frame 2 have the same position"):
        read_volume(frames)
    edit(frames, lambda content: setattr(content, "ImagePositionPatient", [1, 2]))
    with pytest.raises(ValueError, match=r"frames\.dcm: frame 1 has no position"):
        read_volume(frames)
    edit(frames, lambda content: content.pop("ImagePositionPatient"))
    with pytest.raises(ValueError, match=r"frames\.dcm: frame 1 has no position"):
        read_volume(frames)


def test_a_frame_that_is_not_described_is_refused(frames: Path) -> None:
    edit(frames, lambda content: content.PerFrameFunctionalGroupsSequence.pop())
    with pytest.raises(ValueError, match=r"frames\.dcm: describes 6 frames but holds 7: damaged"):
        read_volume(frames)


def flatten(path: Path, **tags: object) -> None:
    """Give the geometry of the first frame in tags of the file."""

    def change(content: pydicom.Dataset) -> None:
        first, shared = content.PerFrameFunctionalGroupsSequence[0], content.SharedFunctionalGroupsSequence[0]
        content.ImagePositionPatient = first.PlanePositionSequence[0].ImagePositionPatient
        content.ImageOrientationPatient = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        content.PixelSpacing = shared.PixelMeasuresSequence[0].PixelSpacing
        del content.PerFrameFunctionalGroupsSequence, content.SharedFunctionalGroupsSequence
        for name, value in tags.items():
            setattr(content, name, value)

    edit(path, change)


def rewrite(slices: list[Path], tag: str, values: Sequence[object]) -> None:
    """Replace a tag of each slice by its own value."""
    for path, value in zip(slices, values, strict=True):
        plane = sitk.ReadImage(str(path))
        plane.SetMetaData(tag, str(value))
        write_slice(plane, path)


def write_slice(plane: sitk.Image, path: Path) -> None:
    """Write a slice with its own identifiers."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(plane)


def warnings_of(slices: list[Path]) -> list[str]:
    folder = slices[0].parent
    _, _, warnings = read_volume(folder)
    assert all(warning.startswith(f"{folder}: ") for warning in warnings)
    return [warning.removeprefix(f"{folder}: ") for warning in warnings]


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("turned", [False, True])
def test_tilted_slices_are_refused(slices: list[Path], direction: int, turned: bool) -> None:
    """Tilt of atan(0.6 / 2) = 17 degrees, for an axis-aligned and an oblique stack."""
    turn = rotation(3, 20) if turned else np.eye(3)
    orientation = "\\".join(f"{x:.9f}" for x in turn[:, :2].T.ravel())
    rewrite(slices, "0020|0037", [orientation] * len(slices))
    for shift in (0.6, 0.0):
        steps = [turn @ (0, shift * k, 2 * direction * k) for k in range(len(slices))]
        rewrite(slices, "0020|0032", ["\\".join(f"{x:.9f}" for x in step) for step in steps])
        if shift:
            message = r"series: slices are tilted against their stacking direction by 17 degrees \(gantry tilt\)"
            with pytest.raises(ValueError, match=message):
                read_volume(slices[0].parent)
    read_volume(slices[0].parent)


def test_a_shift_of_rounding_is_no_tilt(slices: list[Path]) -> None:
    """The tolerance, a tenth of a pixel of 1.5 mm at the last of 7 slices, is 0.025 mm per slice."""
    rewrite(slices, "0020|0037", ["1\\0\\0\\0\\1\\0"] * len(slices))
    rewrite(slices, "0020|0032", [f"0\\{0.024 * k:.3f}\\{2 * k}" for k in range(len(slices))])
    read_volume(slices[0].parent)
    rewrite(slices, "0020|0032", [f"0\\{0.026 * k:.3f}\\{2 * k}" for k in range(len(slices))])
    with pytest.raises(ValueError, match=r"tilted .* by 0\.74 degrees"):
        read_volume(slices[0].parent)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((3, 4, 5, 6, 7, 8, 9), MISSING.format("1 to 2")),
        ((9, 8, 7, 6, 5, 4, 3), MISSING.format("1 to 2")),
        ((1, 5, 2, 6, 3, 7, 8), MISSING.format("4")),  # interleaved, without its last slice
        ((1, 2, 4, 5, 6, 9, 10), MISSING.format("3, 7 to 8")),
        ((0, 2, 3, 4, 5, 6, 7), MISSING.format("1")),
        (range(2_000_000_001, 2_000_000_008), MISSING.format("1 to 2000000000")),
        (range(1, 15, 2), STRIDE.format("1, 3, 5", "1 of 2")),
        (range(5, 210, 30), STRIDE.format("5, 35, 65", "29 of 30")),
    ],
)
def test_missing_slice_numbers_are_warned_of(slices: list[Path], numbers: Sequence[int], message: str) -> None:
    rewrite(slices, "0020|0013", numbers)
    assert warnings_of(slices) == [message]


@pytest.mark.parametrize(
    "numbers",
    [
        range(7),
        range(1, 8),
        range(7, 0, -1),
        (1, 5, 2, 6, 3, 7, 4),
        (1, 3, 5, 8, 11, 13, 20),
        [1] * 7,
        [""] * 7,
    ],
)
def test_other_ways_to_number_slices_are_not(slices: list[Path], numbers: Sequence[object]) -> None:
    rewrite(slices, "0020|0013", numbers)
    assert warnings_of(slices) == []


def test_slices_that_lie_far_apart_are_warned_of(slices: list[Path]) -> None:
    """Slices of 3 mm."""
    for path in slices[1::2]:
        path.unlink()
    rewrite(slices[::2], "0020|0013", range(4))
    assert warnings_of(slices) == ["slices of 3 mm lie 6 mm apart: every second may be missing"]


@pytest.mark.parametrize("thickness", ["2.5", "2.1", "6", "0", ""])
def test_gaps_as_usual_in_mr_are_not(slices: list[Path], thickness: str) -> None:
    """Slices 3 mm apart, with a thickness that is usual or unknown."""
    rewrite(slices, "0018|0050", [thickness] * len(slices))
    assert warnings_of(slices) == []
