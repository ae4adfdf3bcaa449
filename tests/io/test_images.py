# SPDX-License-Identifier: Apache-2.0
"""Written images have the same position in ITK and nibabel."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regplugins.io import write_image
from regplugins.spatial import Grid
from tests.itk_truth import GRIDS, array_of, same_geometry, sitk_image

grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))


@grids
def test_itk_reads_the_same_image(grid: Grid, tmp_path: Path) -> None:
    image = torch.randn(1, *grid.shape)
    write_image(image, grid, tmp_path / "image.nii.gz")
    read = sitk.ReadImage(tmp_path / "image.nii.gz")
    assert same_geometry(read, sitk_image(image[0], grid))
    assert read.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_array_equal(array_of(read), image[0].numpy())


@grids
def test_both_forms_of_the_header_say_where_it_lies(grid: Grid, tmp_path: Path) -> None:
    write_image(torch.zeros(1, *grid.shape), grid, tmp_path / "image.nii")
    header = nib.load(tmp_path / "image.nii").header
    own = np.ix_([*range(grid.ndim), 3], [*range(grid.ndim), 3])
    for form in (header.get_sform(), header.get_qform()):
        np.testing.assert_allclose(form[own], grid.affine, atol=1e-5)
    assert header["sform_code"] > 0 and header["qform_code"] > 0
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_data_shape() == grid.shape


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float64])
def test_kept_in_the_type_that_is_asked_for(dtype: type, tmp_path: Path) -> None:
    grid = GRIDS["small"]
    label = torch.randint(0, 200, (1, *grid.shape), dtype=torch.int32)
    write_image(label, grid, tmp_path / "label.nii.gz", dtype)
    read = nib.load(tmp_path / "label.nii.gz")
    assert read.get_data_dtype() == dtype
    assert read.header.get_slope_inter() in ((None, None), (1.0, 0.0))  # the numbers themselves, not scaled ones
    np.testing.assert_array_equal(np.asarray(read.dataobj), label[0].numpy())
