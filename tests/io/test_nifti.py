# SPDX-License-Identifier: Apache-2.0
"""Positions of images with NIfTI headers of every kind, against SimpleITK."""

import gzip
import struct
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regplugins.io.nifti import read_nifti, read_nifti_grid
from regplugins.io.reading import orthogonal_grid
from regplugins.spatial import Grid
from tests.itk_truth import rotation

SHAPE = (6, 7, 8)
VALUES = np.random.default_rng(0).random(SHAPE).astype(np.float32)


def affine(degrees: float = 20, sizes: tuple[float, ...] = (1, 2, 3), offset: tuple[float, ...] = (5, 6, 7)):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(3, degrees) * np.array(sizes)
    matrix[:3, 3] = offset
    return matrix


RIGHT = affine()
SHEARED = RIGHT @ (np.eye(4) + 0.3 * np.eye(4, k=1) * [0, 1, 0, 0])
NOT_FINITE = np.where(np.eye(4) > 0, np.nan, RIGHT)
FLAT = RIGHT * [1, 1, 0, 1]
FORMS = {
    "right": RIGHT,
    "shifted": affine(offset=(5, 6, 9)),
    "turned": affine(70),
    "larger": affine(sizes=(2, 4, 6)),
    "sheared": SHEARED,
    "not finite": NOT_FINITE,
    "flat": FLAT,
    "zero": np.zeros((4, 4)),
}


def write(path: Path, sform: tuple[np.ndarray, int], qform: tuple[np.ndarray, int], **fields: object) -> Path:
    """Write these forms and codes as raw bytes, since nibabel would correct the header."""
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.float32)
    header.set_qform(qform[0], int(qform[1]))
    for axis, row in zip("xyz", sform[0], strict=False):
        header[f"srow_{axis}"] = row
    header["sform_code"] = sform[1]
    for name, value in {"magic": b"n+1", "vox_offset": 352, "scl_slope": 1, "scl_inter": 0, **fields}.items():
        header[name] = value
    path.write_bytes(header.binaryblock + bytes(4) + VALUES.tobytes(order="F"))
    return path


def pixdim(*sizes: float) -> list[float]:
    return [1, *sizes, 1, 1, 1, 1]


def itk_grid(path: Path) -> Grid:
    """Grid of the image in SimpleITK."""
    image = sitk.ReadImage(str(path))
    n = image.GetDimension()
    matrix = np.eye(n + 1)
    matrix[:n, :n] = np.reshape(image.GetDirection(), (n, n)) * image.GetSpacing()
    matrix[:n, n] = image.GetOrigin()
    matrix[:2] *= -1
    return Grid(image.GetSize(), torch.from_numpy(matrix))


def grid_of(form: np.ndarray) -> Grid:
    return orthogonal_grid(SHAPE, torch.from_numpy(form))


def test_itk_sees_what_is_accepted_without_a_warning_in_the_same_place(tmp_path: Path) -> None:
    """Every sform and code with every qform and code."""
    silent = 0
    for (name, form), code, q_name, q_code in product(FORMS.items(), (0, 1, 2), ("right", "turned"), (0, 1, 2)):
        path = write(tmp_path / "image.nii", (form, code), (FORMS[q_name], q_code))
        try:
            grid, warnings = read_nifti_grid(path)
        except ValueError:
            assert q_code == 0, "a usable qform was refused"
            continue
        if not warnings:
            silent += 1
            assert itk_grid(path).matches(grid, tolerance=0.1), (name, code, q_name, q_code)
    assert silent >= 20


@pytest.mark.parametrize(
    ("form", "fault"),
    [
        ("sheared", "sform is sheared"),
        ("not finite", "sform holds NaN"),
        ("flat", "sform has no inverse"),
        ("zero", "sform has no inverse"),
        ("larger", "sform has voxels of 2 x 4 x 6 and its pixdim says 1 x 2 x 3"),
    ],
)
def test_a_qform_stands_in_for_a_bad_sform(tmp_path: Path, form: str, fault: str) -> None:
    path = write(tmp_path / "image.nii", (FORMS[form], 2), (RIGHT, 1))
    grid, (warning,) = read_nifti_grid(path)
    assert grid.matches(grid_of(RIGHT), tolerance=1e-4)
    assert form == "not finite" or grid.matches(itk_grid(path), tolerance=1e-4)  # ITK itself gives NaN there
    assert str(path) in warning
    assert fault in warning
    assert warning.endswith("placed by its qform")


@pytest.mark.parametrize(
    ("form", "fault"),
    [("sheared", "sheared"), ("not finite", "NaN"), ("flat", "no inverse"), ("zero", "no inverse")],
)
@pytest.mark.parametrize("code", [1, 2])
def test_a_bad_sform_alone_is_refused(tmp_path: Path, form: str, fault: str, code: int) -> None:
    path = write(tmp_path / "image.nii", (FORMS[form], code), (RIGHT, 0))
    with pytest.raises(ValueError, match=rf"image\.nii: its sform .*{fault}.*; correct its header"):
        read_nifti_grid(path)


def test_forms_that_disagree_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "image.nii", (RIGHT, 2), (FORMS["shifted"], 1))
    grid, (warning,) = read_nifti_grid(path)
    assert grid.matches(grid_of(RIGHT), tolerance=1e-4)
    assert itk_grid(path).matches(grid_of(FORMS["shifted"]), tolerance=1e-4)
    assert "up to 2 mm apart; placed by its sform" in warning


@pytest.mark.parametrize("sizes", [(0, 2, 3), (-1, 2, 3), (np.nan, 2, 3)])
def test_voxel_sizes_that_are_none(tmp_path: Path, sizes: tuple[float, ...]) -> None:
    path = write(tmp_path / "image.nii", (RIGHT, 0), (RIGHT, 1), pixdim=pixdim(*sizes))
    with pytest.raises(ValueError, match=r"image\.nii: its voxel sizes \(pixdim\) are"):
        read_nifti_grid(path)
    path = write(tmp_path / "image.nii", (RIGHT, 1), (RIGHT, 0), pixdim=pixdim(*sizes))
    grid, (warning,) = read_nifti_grid(path)
    assert grid.matches(grid_of(RIGHT), tolerance=1e-4)
    assert warning.endswith("placed by its sform")


def test_no_form_at_all(tmp_path: Path) -> None:
    path = write(tmp_path / "image.nii", (RIGHT, 0), (RIGHT, 0))
    grid, (warning,) = read_nifti_grid(path)
    np.testing.assert_allclose(grid.affine.numpy(), nib.load(path).affine)
    assert "neither its sform nor its qform is set" in warning


@pytest.mark.parametrize(("code", "unit"), [(1, "meters"), (3, "micrometers")])
def test_units_are_converted_as_itk_does(tmp_path: Path, code: int, unit: str) -> None:
    path = write(tmp_path / "image.nii", (RIGHT, 1), (RIGHT, 1), xyzt_units=code)
    grid, (warning,) = read_nifti_grid(path)
    assert grid.matches(itk_grid(path), tolerance=1e-4)
    assert unit in warning


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_values_and_scaling(tmp_path: Path, kind: type, ending: str) -> None:
    image = kind(VALUES, RIGHT)
    image.set_data_dtype(np.int16)  # with a slope and an intercept
    nib.save(image, tmp_path / f"image.{ending}")
    values, grid, warnings = read_nifti(tmp_path / f"image.{ending}")
    np.testing.assert_allclose(values, VALUES, atol=1e-4)
    assert grid.matches(grid_of(RIGHT), tolerance=1e-4)
    assert warnings == []


def test_voxels_do_not_begin_within_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "image.nii", (RIGHT, 1), (RIGHT, 1), vox_offset=0)
    with pytest.raises(ValueError, match=rf"^{path}: its voxels begin at byte 0, within the header"):
        read_nifti(path)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1)])
def test_a_2d_image_lies_in_its_plane(tmp_path: Path, codes: tuple[int, int]) -> None:
    tilted = np.eye(4)
    tilted[1:3, 1:3] = rotation(2, 37)
    image = nib.Nifti1Image(VALUES[..., 0], tilted)
    image.set_sform(tilted, codes[0])
    image.set_qform(tilted, codes[1])
    nib.save(image, tmp_path / "image.nii")
    with pytest.raises(ValueError, match=r"image\.nii: its .form tilts a 2-D image out of its plane"):
        read_nifti(tmp_path / "image.nii")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    plain = write(tmp_path / "image.nii", (RIGHT, 1), (RIGHT, 1)).read_bytes()
    path.write_bytes(gzip.compress(plain, compresslevel=0))  # stored as it is, so that nothing else is disturbed
    read_nifti(path)
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"image\.nii\.gz: cannot be read as an image \(CRC check failed"):
        read_nifti(path)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_voxels_that_the_header_does_not_declare_are_warned_of(tmp_path: Path, ending: str) -> None:
    content = bytearray(write(tmp_path / "image.nii", (RIGHT, 1), (RIGHT, 1)).read_bytes())
    content[46:48] = struct.pack("<h", 5)  # slices in place of 8
    path = tmp_path / f"image.{ending}"
    path.write_bytes(gzip.compress(content) if ending == "nii.gz" else content)
    values, grid, warnings = read_nifti(path)
    np.testing.assert_array_equal(values, VALUES[..., :5])
    assert grid.shape == (6, 7, 5)
    assert warnings == [
        f"{path}: 504 bytes after the 6 x 7 x 5 voxels of its header are not read; correct the header if slices are "
        "missing"
    ]


@pytest.mark.parametrize("slope", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_not_finite_is_warned_of(tmp_path: Path, slope: float) -> None:
    path = write(tmp_path / "image.nii", (RIGHT, 1), (RIGHT, 1), scl_slope=slope)
    values, _, warnings = read_nifti(path)
    assert warnings == [f"{path}: its scl_slope is {slope}, its values are read without scaling"]
    np.testing.assert_array_equal(values, sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T)
