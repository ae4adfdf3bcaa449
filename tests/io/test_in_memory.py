# SPDX-License-Identifier: Apache-2.0
"""Images in memory against the same voxels in a file that SimpleITK wrote."""

import itk
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from regplugins.io import load_image, load_label
from regplugins.io.in_memory import write_given
from regplugins.spatial import Grid
from tests.itk_truth import GRIDS, rotation, sitk_image


def in_world(grid: Grid) -> np.ndarray:
    affine = np.eye(4)
    axes = [*range(grid.ndim), 3]
    affine[np.ix_(axes, axes)] = grid.affine.numpy()
    return affine


FORMS = {
    "nibabel": lambda array, grid: nib.Nifti1Image(array, in_world(grid)),
    "MGH": lambda array, grid: nib.MGHImage(array, in_world(grid)),
    "SimpleITK": lambda array, grid: sitk_image(torch.from_numpy(array), grid),
    "MetaTensor": lambda array, grid: MetaTensor(torch.from_numpy(array.copy())[None], affine=grid.affine),
    "MetaTensor of MONAI": lambda array, grid: MetaTensor(torch.from_numpy(array.copy())[None], affine=in_world(grid)),
    "array": lambda array, grid: (array, grid.affine.numpy()),
    "tensor": lambda array, grid: (torch.from_numpy(array.copy()), grid.affine),
}


@pytest.mark.parametrize("grid", [GRIDS["left-handed oblique"], GRIDS["2-D oblique"]], ids=["3-D", "2-D"])
@pytest.mark.parametrize("form", FORMS)
def test_an_image_in_memory_is_that_of_the_file(tmp_path, form, grid):
    if form == "MGH" and grid.ndim == 2:
        pytest.skip("MGH images are 3-D")
    array = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    sitk.WriteImage(sitk_image(torch.from_numpy(array), grid), tmp_path / "truth.nrrd")
    expected = load_image(tmp_path / "truth.nrrd")
    images = [FORMS[form](array, grid)]
    if form == "SimpleITK":
        images.append(itk.imread(str(tmp_path / "truth.nrrd")))
    for image in images:
        found = load_image(write_given(image, tmp_path / "given"))
        assert torch.equal(found.as_tensor(), expected.as_tensor())
        torch.testing.assert_close(found.affine, expected.affine, atol=1e-5, rtol=0)


def test_labels_of_simpleitk_and_of_a_narrow_header_are_kept(tmp_path):
    """The types that ``GetImageFromArray`` and nibabel's ``get_fdata`` give."""
    labels = np.zeros((6, 5, 4), int)
    labels[1:3], labels[4:] = 300, 70
    narrow = nib.Nifti1Header()
    narrow.set_data_dtype(np.uint8)
    for image in (
        sitk.GetImageFromArray(labels.T.astype(np.int64)),
        nib.Nifti1Image(labels.astype(float), np.eye(4), narrow),
    ):
        np.testing.assert_array_equal(load_label(write_given(image, tmp_path / "label"))[0].numpy(), labels)


@pytest.mark.parametrize(("degrees", "refused"), [(0.5, False), (10, True), (90, True)])
def test_a_slice_of_a_tilted_scan_does_not_shrink(tmp_path, degrees, refused):
    affine = np.eye(4)
    affine[1:3, 1:3] = rotation(2, degrees)
    image = MetaTensor(torch.rand(1, 6, 5), affine=affine)
    if not refused:
        grid = Grid.from_image(load_image(write_given(image, tmp_path / "slice")))
        torch.testing.assert_close(grid.spacing, torch.ones(2, dtype=torch.float64), atol=1e-4, rtol=0)
        assert grid.matches(Grid.from_image(image))
        return
    with pytest.raises(ValueError, match=r"^slice: its affine tilts a 2-D image out of its plane"):
        write_given(image, tmp_path / "slice")
    with pytest.raises(ValueError, match=r"^the affine of a MetaTensor tilts a 2-D image out of its plane"):
        Grid.from_image(image)


@pytest.mark.parametrize("fault", ["micrometers", "voxel sizes that contradict the sform"])
def test_an_image_of_nibabel_is_where_its_file_is(tmp_path, fault):
    image = nib.Nifti1Image(np.random.default_rng(0).random((6, 5, 4), np.float32), np.diag([2.0, 2, 3, 1]))
    image.set_qform(image.affine, 1)
    if fault == "micrometers":
        image.header.set_xyzt_units("micron")
    else:
        image.header.set_qform(np.diag([1.0, 1, 2, 1]), 1)
    nib.save(image, tmp_path / "file.nii.gz")
    expected, found = (
        load_image(path)
        for path in (tmp_path / "file.nii.gz", write_given(nib.load(tmp_path / "file.nii.gz"), tmp_path / "given"))
    )
    torch.testing.assert_close(found.affine, expected.affine)
    assert (
        [message.partition(": ")[2] for message in found.meta["warnings"]]
        == [message.partition(": ")[2] for message in expected.meta["warnings"]]
        != []
    )


def test_the_world_of_a_meta_tensor_is_heard(tmp_path):
    grid = GRIDS["oblique"]
    flip = torch.diag(torch.tensor([-1.0, -1, 1, 1], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, *grid.shape), affine=flip @ grid.affine, meta={"space": "LPS"})
    torch.testing.assert_close(load_image(write_given(image, tmp_path / "i")).affine, grid.affine, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64, np.uint64])
def test_labels_of_any_type_stay_whole_numbers(tmp_path, dtype):
    array = np.zeros((6, 5, 4), dtype)
    array[1:3] = 1 if dtype is bool else 70
    found = load_label(write_given((array, np.eye(4)), tmp_path / "label"))
    np.testing.assert_array_equal(found[0].numpy(), array.astype(np.int32))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int16])
def test_values_of_any_type_are_kept(tmp_path, dtype):
    array = np.arange(-60, 60).reshape(6, 5, 4).astype(dtype)
    np.testing.assert_array_equal(load_image(write_given((array, np.eye(4)), tmp_path / "image"))[0].numpy(), array)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4, 4)), TypeError, r"^fixed: expected .* got a ndarray of shape \(4, 4, 4\)"),
        (7, TypeError, "^fixed: expected .* got a int$"),
        (MetaTensor(torch.zeros(2, 4, 4, 4)), TypeError, r"got a MetaTensor of shape \(2, 4, 4, 4\)"),
        ((np.zeros((4, 4)), np.eye(5)), ValueError, r"got shapes \(4, 4\) and \(5, 5\)"),
        ((np.zeros((4, 4, 4, 2)), np.eye(5)), ValueError, "2-D or 3-D"),
        ((np.zeros((4, 4, 4)), np.full((4, 4), np.nan)), ValueError, "^fixed: the affine must be finite"),
        ((np.zeros((4, 4, 4)), np.zeros((4, 4))), ValueError, "^fixed: the affine .* last row"),
        ((np.zeros((4, 4, 4)), np.diag([1.0, 1, 0, 1])), ValueError, "^fixed: the affine is not invertible"),
        ((np.zeros((4, 4, 4)), 2 * np.eye(4)), ValueError, "^fixed: the affine .* last row"),
        (nib.Nifti1Image(np.zeros((4, 4, 4)), None), ValueError, "^fixed: the image of nibabel has no affine"),
        ((np.zeros((4, 4, 0), int), np.eye(4)), ValueError, "^fixed: empty image"),
        ((np.zeros((4, 4, 4), complex), np.eye(4)), ValueError, "^fixed: voxels are of type complex128"),
        ((np.full((4, 4, 4), -(2**40)), np.eye(4)), ValueError, "^fixed: whole numbers .* do not fit in 32 bits"),
    ],
)
def test_other_objects_are_refused(tmp_path, image, error, message):
    with pytest.raises(error, match=message):
        write_given(image, tmp_path / "fixed")
    assert not list(tmp_path.iterdir())
