# SPDX-License-Identifier: Apache-2.0
"""Images and labels from files of every kind, against ITK and nibabel."""

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter

from regplugins.io import load_grid, load_image, load_label, load_mask, write_image
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


@pytest.mark.parametrize(("least", "background"), [(57.0, 0.0), (-1000.0, -1000.0)], ids=["MR", "CT"])
def test_nan_around_a_head_is_background(tmp_path: Path, least: float, background: float) -> None:
    values = least + np.arange(8**3, dtype=np.float32).reshape(8, 8, 8)
    values[1, 2, 3] = np.nan
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "spm.nii")
    loaded = load_image(tmp_path / "spm.nii")
    np.testing.assert_array_equal(loaded[0].numpy(), np.where(np.isnan(values), background, values))
    assert loaded.meta["warnings"] == [
        f"{tmp_path / 'spm.nii'}: 1 voxels are NaN, taken for background ({background:g})"
    ]


def test_two_series_in_a_folder_are_refused(image: tuple[sitk.Image, Grid], tmp_path: Path) -> None:
    for uid in ("1.2.3.4", "1.2.3.5"):
        write_series(image[0], tmp_path / "series", uid)
    with pytest.raises(
        ValueError, match=r"series: more than one DICOM series \(such as those of 1\.2\.3\.\d_000\.dcm and"
    ):
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


def saved(values: np.ndarray, path: Path) -> Path:
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    return path


def scan() -> np.ndarray:
    """A smooth image of thousands of values, 0 in the air around it."""
    values = gaussian_filter(np.random.default_rng(0).random((24, 24, 24)), 2)
    values = 4000 * (values - values.min()) / np.ptp(values)
    values[:6] = 0
    return values.astype(np.int16)


def structures(*numbers: int) -> np.ndarray:
    """Cubes of 4 voxels, one a number, background between them."""
    blocks = np.zeros((6, 6, 6), np.int32)
    blocks.flat[: len(numbers)] = numbers
    return np.kron(blocks, np.ones((4, 4, 4), np.int32))


def test_an_image_given_as_label_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"scan\.nii\.gz: looks like an image, not a label map: \d{4} different values"
    ):
        load_label(saved(scan(), tmp_path / "scan.nii.gz"))


@pytest.mark.parametrize(
    "numbers",
    [range(1, 139), (1, 14_175), (1, 65_535), range(11_100, 11_300)],
    ids=["138 structures", "FreeSurfer", "16 bits", "parcels"],
)
def test_label_maps_of_every_numbering(tmp_path: Path, numbers: range | tuple[int, ...]) -> None:
    label = load_label(saved(structures(*numbers), tmp_path / "label.nii.gz"))
    assert label.unique().tolist() == [0, *numbers]
    assert label.meta["warnings"] == []


@pytest.mark.parametrize("numbers", [(1, 65_536), (997, 312_782_574, 614_454_277)], ids=["17 bits", "Allen"])
def test_labels_beyond_16_bits_are_kept_and_warned_of(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    path = saved(structures(*numbers), tmp_path / "label.nii.gz")
    label = load_label(path)
    assert label.unique().tolist() == [0, *numbers]
    (warning,) = label.meta["warnings"]
    assert warning.startswith(f"{path}: labels up to {numbers[-1]}; Slicer and ANTs may not show")
    assert load_mask(path).meta["warnings"] == []


def test_many_labels_of_one_voxel_each(tmp_path: Path) -> None:
    values = np.zeros((20, 20, 20), np.int16)
    values[::4, ::4, ::4] = np.arange(1, 126).reshape(5, 5, 5)
    assert int(load_label(saved(values, tmp_path / "label.nii.gz")).max()) == 125


def test_labels_that_single_precision_rounds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(structures(614_454_277).astype(np.float32), tmp_path / "label.nii.gz")
    (warning,) = load_label(path).meta["warnings"]
    assert f"{path}: labels up to 614454272 in single precision" in warning
    assert [record.getMessage() for record in caplog.records] == [warning]


@pytest.mark.parametrize("load", [load_label, load_mask])
def test_negative_labels_are_refused(tmp_path: Path, load: object) -> None:
    values = structures(1, 200).astype(np.int8)  # 200 becomes -56
    with pytest.raises(ValueError, match=r"label\.nii\.gz: a .* holds no negative numbers, found -56"):
        load(saved(values, tmp_path / "label.nii.gz"))


def test_a_masked_image_is_its_own_mask(tmp_path: Path) -> None:
    mask = load_mask(saved(scan(), tmp_path / "scan.nii.gz"))
    np.testing.assert_array_equal(mask[0].numpy() != 0, scan() != 0)


@pytest.mark.parametrize("load", [load_image, load_grid, load_label, load_mask])
def test_doubts_about_a_header_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, load: object) -> None:
    image = nib.Nifti1Image(structures(1, 2), np.eye(4))
    image.set_sform(np.eye(4), 2)
    image.set_qform(np.diag([-1.0, -1, 1, 1]), 1)
    nib.save(image, tmp_path / "image.nii.gz")
    with caplog.at_level(logging.WARNING):
        loaded = load(tmp_path / "image.nii.gz")
    (record,) = caplog.records
    assert "image.nii.gz: its sform and its qform are up to" in record.getMessage()
    if load is not load_grid:
        assert loaded.meta["warnings"] == [record.getMessage()]
