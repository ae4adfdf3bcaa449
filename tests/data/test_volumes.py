# SPDX-License-Identifier: Apache-2.0
"""Images and labels from files of every kind, against ITK and nibabel."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regplugins.data import load_grid, load_image, load_label
from regplugins.io import write_image
from regplugins.spatial import Grid
from tests.itk_truth import array_of, make_grid, rotation, sitk_image, write_series


@pytest.fixture
def image() -> tuple[sitk.Image, Grid]:
    grid = make_grid((12, 10, 7), rotation(3, 20) @ np.diag([-1.0, -1, 1]), (1.5, 1.5, 3.0), (12.0, -30.0, 41.0))
    return sitk_image(torch.randint(0, 900, grid.shape, dtype=torch.int16), grid), grid


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
def test_every_form_is_the_same_image(image: tuple[sitk.Image, Grid], tmp_path: Path, suffix: str) -> None:
    sitk.WriteImage(image[0], str(tmp_path / f"image.{suffix}"))
    loaded = load_image(tmp_path / f"image.{suffix}")
    np.testing.assert_array_equal(loaded[0].numpy(), array_of(image[0]))
    assert Grid.from_image(loaded).matches(image[1], tolerance=1e-3)
    assert load_grid(tmp_path / f"image.{suffix}").matches(image[1], tolerance=1e-3)


def test_a_dicom_folder_is_its_series(image: tuple[sitk.Image, Grid], tmp_path: Path) -> None:
    write_series(image[0], tmp_path / "series", "1.2.3.4")
    loaded = load_image(tmp_path / "series")
    np.testing.assert_array_equal(loaded[0].numpy(), array_of(image[0]))
    assert Grid.from_image(loaded).matches(image[1], tolerance=1e-3)


def test_two_series_in_a_folder_are_refused(image: tuple[sitk.Image, Grid], tmp_path: Path) -> None:
    for uid in ("1.2.3.4", "1.2.3.5"):
        write_series(image[0], tmp_path / "series", uid)
    with pytest.raises(ValueError, match=r"series: cannot be read.*more than one DICOM series"):
        load_image(tmp_path / "series")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_labels_come_back_in_their_type(tmp_path: Path, dtype: type) -> None:
    values = np.zeros((4, 5, 6), dtype)
    values[1:3] = min(40_000, np.iinfo(dtype).max)
    nib.save(nib.Nifti1Image(values, np.eye(4), dtype=dtype), tmp_path / "label.nii.gz")
    label = load_label(tmp_path / "label.nii.gz")
    write_image(label.as_tensor(), Grid.from_image(label), tmp_path / "again.nii.gz", label.meta["stored_dtype"])
    again = nib.load(tmp_path / "again.nii.gz")
    assert again.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(again.dataobj), values)


@pytest.mark.parametrize(("largest", "dtype"), [(3, np.int16), (40_000, np.int32)])
def test_labels_kept_as_real_numbers(tmp_path: Path, largest: int, dtype: type) -> None:
    values = np.zeros((4, 5, 6), np.float32)
    values[0, 0, 0] = largest
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "label.nii.gz")
    label = load_label(tmp_path / "label.nii.gz")
    assert label.meta["stored_dtype"] == dtype
    assert int(label.max()) == largest
    values[0, 0, 1] = 0.5
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "label.nii.gz")
    with pytest.raises(ValueError, match=r"label\.nii\.gz: a label map holds whole numbers"):
        load_label(tmp_path / "label.nii.gz")
