# SPDX-License-Identifier: Apache-2.0
"""Displacement NIfTI files against SimpleITK and nibabel."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regplugins.io import read_displacement, write_displacement
from regplugins.spatial import Grid
from tests.itk_truth import (
    GRIDS,
    points_in,
    random_field,
    read_field,
    same_geometry,
    sitk_image,
    transform_points,
    write_image,
)

all_grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


@all_grids
def test_header(grid: Grid, tmp_path: Path) -> None:
    write_displacement(random_field(grid), tmp_path / "field.nii.gz")
    image = nib.load(tmp_path / "field.nii.gz")
    assert image.shape == ((*grid.shape, 1, 3) if grid.ndim == 3 else (*grid.shape, 1, 1, 2))
    assert int(image.header["intent_code"]) == 1007
    assert image.get_data_dtype() == np.float32
    (sform, sform_code), (qform, qform_code) = image.get_sform(coded=True), image.get_qform(coded=True)
    assert sform_code == qform_code == 1
    np.testing.assert_allclose(sform, qform, atol=1e-4)


@all_grids
def test_itk_sees_a_vector_image_on_the_same_grid(grid: Grid, tmp_path: Path) -> None:
    field = random_field(grid)
    write_displacement(field, tmp_path / "field.nii.gz")
    write_image(torch.zeros(grid.shape), grid, tmp_path / "image.nii.gz")
    itk = sitk.ReadImage(tmp_path / "field.nii.gz")
    assert itk.GetDimension() == itk.GetNumberOfComponentsPerPixel() == grid.ndim
    assert same_geometry(itk, sitk.ReadImage(tmp_path / "image.nii.gz"))
    assert same_geometry(itk, sitk_image(torch.zeros(grid.shape), grid))

    points = points_in(grid)
    found = transform_points(read_field(tmp_path / "field.nii.gz"), points)
    np.testing.assert_allclose(found, field(points), atol=1e-4)


def test_itk_takes_a_field_of_one_slice_for_a_3d_one(tmp_path: Path) -> None:
    grid = GRIDS["oblique"]
    grid = Grid((*grid.shape[:2], 1), grid.affine)
    field = random_field(grid)
    write_displacement(field, tmp_path / "field.nii.gz")
    # Half a slice below it and one and a half above, where ITK ends.
    index = torch.rand(50, 3, dtype=torch.float64) * 0.9 * torch.tensor([*grid.shape[:2], 2])
    index[:, 2] -= 0.4
    points = grid.index_to_world(index)
    np.testing.assert_allclose(
        transform_points(read_field(tmp_path / "field.nii.gz"), points), field(points), atol=1e-4
    )
    np.testing.assert_allclose(read_displacement(tmp_path / "field.nii.gz")(points), field(points), atol=1e-4)


@all_grids
def test_file_by_itk_is_read(grid: Grid, tmp_path: Path) -> None:
    field = random_field(grid)
    signs = torch.tensor([-1.0, -1, 1][: grid.ndim]).view(-1, *[1] * grid.ndim)
    components = [sitk_image(component, grid) for component in field.vectors * signs]
    sitk.WriteImage(sitk.Compose(components), tmp_path / "itk.nii.gz")
    read = read_displacement(tmp_path / "itk.nii.gz")
    assert torch.equal(read.vectors, field.vectors)
    assert read.grid.matches(grid, tolerance=1e-5)


def nifti(shape: tuple[int, ...], intent: int = 1007, value: float = 0.0) -> nib.Nifti1Image:
    image = nib.Nifti1Image(np.full(shape, value, np.float32), np.eye(4))
    image.header.set_intent(intent, allow_unknown=True)
    return image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (nifti((4, 5, 6)), r"got shape \(4, 5, 6\)"),
        (nifti((4, 5, 6, 3)), r"got shape \(4, 5, 6, 3\)"),
        (nifti((4, 5, 6, 1, 4)), r"got shape \(4, 5, 6, 1, 4\)"),
        (nifti((4, 5, 6, 2, 3)), r"got shape \(4, 5, 6, 2, 3\)"),
        (nifti((4, 5, 6, 1, 2)), r"got shape \(4, 5, 6, 1, 2\)"),
        (nifti((4, 5, 6, 1, 3), intent=0), r"intent code 1007 \(vector\), got 0"),
        (nifti((4, 5, 6, 1, 3), value=float("nan")), "360 displacements are not finite"),
    ],
)
def test_other_images_are_refused(image: nib.Nifti1Image, message: str, tmp_path: Path) -> None:
    nib.save(image, tmp_path / "other.nii.gz")
    with pytest.raises(ValueError, match=rf"other\.nii\.gz: .*{message}"):
        read_displacement(tmp_path / "other.nii.gz")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_files_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"field{suffix}"
    write_displacement(random_field(GRIDS["oblique"]), path)
    whole = path.read_bytes()
    for length in (1, 100, 347, 352, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"field\{suffix}: not a readable NIfTI file"):
            read_displacement(path)


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "field.nii.gz"
    write_displacement(random_field(GRIDS["oblique"]), path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 200] = bytes(200)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="not a readable NIfTI file"):
        read_displacement(path)
