# SPDX-License-Identifier: Apache-2.0
"""Formats of transform files by suffix."""

import os
from pathlib import Path

import pytest

from regplugins.io import read_transform, write_transform
from regplugins.spatial import AffineTransform, DisplacementField
from tests.itk_truth import GRIDS, random_field

suffixes = pytest.mark.parametrize("suffix", [".mat", ".tfm", ".txt", ".h5", ".nii", ".nii.gz"])


@suffixes
def test_missing_and_empty_files_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"transform{suffix}"
    with pytest.raises(FileNotFoundError, match=rf"transform\{suffix}: no such file"):
        read_transform(path)
    path.touch()
    with pytest.raises(ValueError, match=rf"transform\{suffix}: the file is empty"):
        read_transform(path)


@pytest.mark.parametrize("name", ["transform.xfm", "transform", "transform.nrrd", "mat"])
def test_unknown_endings_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("something")
    with pytest.raises(ValueError, match=rf"{name}: .*\.mat, \.tfm, \.txt, \.h5, \.nii, \.nii\.gz"):
        read_transform(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: .*\.mat"):
        write_transform(AffineTransform.identity(3), tmp_path / name)


def test_fields_go_by_name_as_text_and_path(tmp_path: Path) -> None:
    write_transform(random_field(GRIDS["small"]), str(tmp_path / "pair.1Warp.nii.gz"))
    assert isinstance(read_transform(str(tmp_path / "pair.1Warp.nii.gz")), DisplacementField)
    with pytest.raises(ValueError, match=r"affine\.nii\.gz.*AffineTransform"):
        write_transform(AffineTransform.identity(3), tmp_path / "affine.nii.gz")
    assert os.listdir(tmp_path) == ["pair.1Warp.nii.gz"]
