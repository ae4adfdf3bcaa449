# SPDX-License-Identifier: Apache-2.0
"""Files are written completely or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regplugins.checks import error_line
from regplugins.io import atomic, atomic_folder, read_json, sha256, write_transform
from regplugins.spatial import AffineTransform
from tests.full_disk import full_disk
from tests.itk_truth import GRIDS, random_field


def test_a_finished_file_takes_its_name(tmp_path: Path) -> None:
    path = tmp_path / "field.nii.gz"
    path.write_text("old")
    with atomic(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["field.nii.gz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_file_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "field.nii.gz"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["field.nii.gz"]


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    with atomic(tmp_path / "file") as temporary:
        temporary.touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("name", ["image.mhd", "image.nhdr", "image.hdr", "list.mhd", "pattern.nhdr", "down.nhdr"])
def test_the_hash_of_a_header_is_that_of_its_voxels_too(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    if path.stem == "image":
        sitk.WriteImage(image, path)
    else:
        for k, values in enumerate(sitk.GetArrayFromImage(image)):
            values.tofile(tmp_path / f"part_{k}.raw")
        path.write_text(_HEADERS[name])
    written = sorted(file for file in tmp_path.iterdir() if file.suffix in (".raw", ".img"))
    assert written
    before = sha256(path)
    (tmp_path / "other.raw").touch()
    for file in written:
        values = np.fromfile(file, np.int16)
        values[3] += 1
        values.tofile(file)
        assert sha256(path) != before
        values[3] -= 1
        values.tofile(file)
        assert sha256(path) == before
    read = sitk.GetArrayFromImage(sitk.ReadImage(path))
    np.testing.assert_array_equal(read[:: -1 if name == "down.nhdr" else 1], sitk.GetArrayFromImage(image))


@pytest.mark.parametrize("compressed", ["", ".gz"])
def test_the_hashes_of_a_header_and_of_its_voxels_change_with_either(compressed: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"a.{kind}{compressed}" for kind in ("hdr", "img")]
    for path in (*paths, tmp_path / "b.hdr"):
        path.write_bytes(b"1")
    before = [sha256(path) for path in paths]
    for changed in paths:
        changed.write_bytes(b"2")
        assert all(sha256(path) != known for path, known in zip(paths, before, strict=True))
        changed.write_bytes(b"1")
        assert [sha256(path) for path in paths] == before


_HEADERS = {
    "list.mhd": "ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nElementType = MET_SHORT\nElementDataFile = LIST\n"
    "part_0.raw\npart_1.raw\npart_2.raw\n",
    "pattern.nhdr": "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nencoding: raw\nendian: little\n"
    "data file: part_%d.raw 0 2 1 2\n",
    "down.nhdr": "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nencoding: raw\nendian: little\n"
    "data file: part_%d.raw 2 0 -1 2\n",
}


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "file.mat"
    with pytest.raises(FileNotFoundError, match=r"nowhere/file\.mat: its folder does not exist"), atomic(path):
        pass


def write_state(path: Path) -> None:
    with atomic(path) as temporary:
        torch.save({"weight": torch.rand(5000)}, temporary)


def write_volume(path: Path) -> None:
    with atomic(path) as temporary:
        nib.save(nib.Nifti1Image(np.random.default_rng(0).random((20, 20, 20)), np.eye(4)), temporary)


AFFINE = AffineTransform(torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("volume.nii.gz", write_volume),
        ("model.pt", write_state),
        ("field.nii.gz", lambda path: write_transform(random_field(GRIDS["ras"]), path)),
        *((f"affine{suffix}", lambda path: write_transform(AFFINE, path)) for suffix in (".mat", ".tfm", ".h5")),
    ],
)
def test_a_full_disk_is_told_of_the_file_and_leaves_nothing(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.raises(OSError) as error, full_disk(60):
        write(tmp_path / name)
    line = error_line(error.value)
    assert line.startswith(f"{tmp_path / name}: ")
    assert "File too large" in line or "cannot be written" in line
    assert os.listdir(tmp_path) == []


def test_a_full_disk_while_a_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(1000))

    def copy(folder: Path) -> None:
        shutil.copyfile(tmp_path / "source", folder / "copy")

    def write(folder: Path) -> None:
        write_transform(AFFINE, folder / "affine.txt")

    for make, name in ((copy, "new/copy"), (write, "new/affine.txt")):
        with pytest.raises(OSError) as error, full_disk(60), atomic_folder(tmp_path / "new") as folder:
            make(folder)
        assert error_line(error.value) == f"{tmp_path / name}: File too large"
        assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("name", ["n" * 251 + ".mat", "ü" * 125 + ".mat"])
def test_the_longest_names_that_a_file_system_takes(name: str, tmp_path: Path) -> None:
    write_transform(AFFINE, tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_a_name_that_is_too_long_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 300 + ".mat")
    with pytest.raises(OSError) as error:
        write_transform(AFFINE, path)
    assert error_line(error.value) == f"{path}: File name too long"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{ garbage", "not JSON \\(Expecting property name"),
        (b"", "not JSON \\(Expecting value"),
        (b"\xff\xfe", "not JSON \\('utf-8' codec"),
        (b"[" * 100_000, "not JSON that can be read \\(nested too deeply\\)"),
        (b"[1]", "expected a JSON object, got a list"),
    ],
)
def test_json_that_is_none_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "inference.json"
    with pytest.raises(FileNotFoundError, match=r"inference\.json: no such file"):
        read_json(path)
    path.write_bytes(content)
    for name in (None, "bundle/inference.json"):
        with pytest.raises(ValueError, match=f"^{name or path}: {message}"):
            read_json(path, name)
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}
