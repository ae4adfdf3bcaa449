# SPDX-License-Identifier: Apache-2.0
"""Compressed NIfTI files: readable by every tool, with bytes that do not depend on the number of threads."""

import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regplugins.io import read_displacement, write_displacement, write_image
from regplugins.io.nifti_writer import _PIECE_BYTES
from regplugins.spatial import DisplacementField, Grid

GRID = Grid((70, 90, 80), torch.diag(torch.tensor([1.5, 1.2, 2.0, 1.0])))


@pytest.fixture
def threads():
    """Sets PyTorch's number of threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int32])
def test_nibabel_itk_and_gzip_read_what_several_pieces_hold(dtype: type, threads, tmp_path: Path) -> None:
    image = torch.randint(0, 200, (1, *GRID.shape)).to(torch.float32)
    image[:, :30] = 0
    threads(3)
    write_image(image, GRID, tmp_path / "image.nii.gz", dtype)
    assert image[0].numel() * np.dtype(dtype).itemsize > _PIECE_BYTES or dtype is np.uint8
    subprocess.run(["gzip", "-t", tmp_path / "image.nii.gz"], check=True)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "image.nii.gz").dataobj), image[0].numpy())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "image.nii.gz")).T, image[0].numpy())
    write_image(image, GRID, tmp_path / "image.nii", dtype)
    plain = subprocess.run(["gzip", "-dc", tmp_path / "image.nii.gz"], check=True, capture_output=True).stdout
    assert plain == (tmp_path / "image.nii").read_bytes()


def test_bytes_do_not_depend_on_threads_or_names(threads, tmp_path: Path) -> None:
    field = DisplacementField(torch.randn(3, *GRID.shape), GRID)
    contents = set()
    for number in (1, 2, 5):
        threads(number)
        write_displacement(field, tmp_path / f"{number}.nii.gz")
        contents.add((tmp_path / f"{number}.nii.gz").read_bytes())
    assert len(contents) == 1
    assert torch.equal(read_displacement(tmp_path / "1.nii.gz").vectors, field.vectors)


def test_floating_point_takes_no_more_than_a_match_search_would(tmp_path: Path) -> None:
    """Half of the image is background; gzip's fastest level is the reference."""
    image = torch.randn(1, *GRID.shape)
    image[:, :35] = 0
    write_image(image, GRID, tmp_path / "image.nii.gz")
    write_image(image, GRID, tmp_path / "plain.nii")
    gzip = subprocess.run(["gzip", "-1c", tmp_path / "plain.nii"], check=True, capture_output=True).stdout
    assert (tmp_path / "image.nii.gz").stat().st_size < 1.02 * len(gzip)
