# SPDX-License-Identifier: Apache-2.0
"""Grids against nibabel and SimpleITK."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage

from regplugins.spatial import Grid
from tests.itk_truth import GRIDS, sitk_image, write_image

all_grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def corners(grid: Grid) -> torch.Tensor:
    """Index positions of the field of view's corners."""
    return torch.cartesian_prod(*[torch.tensor([-0.5, size - 0.5], dtype=torch.float64) for size in grid.shape])


@all_grids
def test_geometry_is_that_of_simpleitk(grid: Grid) -> None:
    image = sitk_image(torch.zeros(grid.shape), grid)
    signs = np.array([-1.0, -1, 1][: grid.ndim])
    index = torch.rand(20, grid.ndim, dtype=torch.float64) * 30 - 5
    theirs = np.array([image.TransformContinuousIndexToPhysicalPoint(i) for i in index.tolist()]) * signs
    np.testing.assert_allclose(grid.index_to_world(index), theirs, atol=1e-9)
    np.testing.assert_allclose(grid.world_to_index(torch.from_numpy(theirs)), index, atol=1e-9)
    np.testing.assert_allclose(grid.spacing, image.GetSpacing(), atol=1e-12)
    middle = image.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in grid.shape])
    np.testing.assert_allclose(grid.center, middle * signs, atol=1e-9)


@all_grids
def test_coordinates_are_those_of_every_index(grid: Grid) -> None:
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    expected = nib.affines.apply_affine(grid.affine.numpy(), index)
    assert grid.coordinates().dtype == torch.float64
    np.testing.assert_allclose(grid.coordinates(), expected, atol=1e-9)
    np.testing.assert_allclose(grid.coordinates(slice(2, 5)), expected[2:5], atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_keep_their_type(dtype: torch.dtype) -> None:
    grid = GRIDS["oblique"]
    points = torch.rand(4, 5, 3).to(dtype)
    assert grid.index_to_world(points).dtype == grid.world_to_index(points).dtype == dtype
    assert grid.index_to_world(torch.zeros(3, dtype=torch.int64)).dtype == torch.float64


@all_grids
def test_field_of_view_reaches_half_a_voxel_beyond_the_centers(grid: Grid) -> None:
    index = torch.rand(500, grid.ndim, dtype=torch.float64) * (torch.tensor(grid.shape) + 2) - 1.5
    inside = np.all((index.numpy() > -0.5) & (index.numpy() < np.array(grid.shape) - 0.5), axis=-1)
    assert 0 < inside.sum() < 500
    np.testing.assert_array_equal(grid.contains(grid.index_to_world(index)), inside)


def test_lower_faces_belong_to_the_field_of_view_and_upper_ones_do_not() -> None:
    grid = Grid((4, 4), torch.eye(3))
    assert grid.contains(torch.tensor([[-0.5, -0.5], [3.5, 0.0], [0.0, 3.5]])).tolist() == [True, False, False]


@all_grids
def test_canonical_is_nibabels(grid: Grid) -> None:
    n = grid.ndim
    axes = np.ix_([*range(n), 3], [*range(n), 3])
    in_space = np.eye(4)  # a 2-D grid as a slice, which nibabel wants
    in_space[axes] = grid.affine.numpy()
    theirs = nib.as_closest_canonical(nib.Nifti1Image(np.zeros((*grid.shape, 1)[:3], np.uint8), in_space))
    canonical = grid.canonical()
    assert canonical.shape == theirs.shape[:n]
    np.testing.assert_allclose(canonical.affine, theirs.affine[axes], atol=1e-9)


@all_grids
def test_resized_covers_the_field_of_view_about_the_same_center(grid: Grid) -> None:
    spacing = [1.3, 2.6, 0.9][: grid.ndim]
    resized = grid.resized(spacing)
    n = grid.ndim
    np.testing.assert_allclose(resized.spacing, spacing, atol=1e-12)
    np.testing.assert_allclose(resized.center, grid.center, atol=1e-9)
    np.testing.assert_allclose(resized.affine[:n, :n] / resized.spacing, grid.affine[:n, :n] / grid.spacing, atol=1e-12)
    index = resized.world_to_index(grid.index_to_world(corners(grid)))
    overhang = torch.stack([-0.5 - index, index - (torch.tensor(resized.shape) - 0.5)])
    assert overhang.max() < 2e-3  # covered but for the rounding that is let pass
    assert overhang.amax(dim=(0, 1)).min() > -1.0  # and not a voxel more than that takes


def test_resized_to_a_given_shape_and_to_itself() -> None:
    grid = GRIDS["anisotropic"]
    resized = grid.resized([2.0, 2.0, 2.0], shape=[5, 6, 7])
    assert resized.shape == (5, 6, 7)
    np.testing.assert_allclose(resized.center, grid.center, atol=1e-9)
    assert grid.resized(grid.spacing.float()).matches(grid, tolerance=1e-5)
    with pytest.raises(ValueError, match="positive voxel sizes"):
        grid.resized([1.0, -1.0, 1.0])


@pytest.mark.parametrize("name", ["las", "oblique", "2-D oblique"])
def test_grid_of_a_loaded_image(name: str, tmp_path) -> None:
    grid = GRIDS[name]
    write_image(torch.zeros(grid.shape), grid, tmp_path / "image.nii.gz")
    loaded = LoadImage(image_only=True, ensure_channel_first=True)(tmp_path / "image.nii.gz")
    assert isinstance(loaded, MetaTensor)
    assert Grid.from_image(loaded).matches(grid, tolerance=1e-5)


def test_matches_sees_a_small_shift_and_another_shape() -> None:
    grid = GRIDS["oblique"]
    moved = grid.affine.clone()
    moved[0, 3] += 0.01
    assert grid.matches(Grid(grid.shape, grid.affine.clone()))
    assert not grid.matches(Grid(grid.shape, moved))
    assert not grid.matches(Grid((20, 20, 18), grid.affine))


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((4,), torch.eye(2), "two or three sizes"),
        ((4, 0, 4), torch.eye(4), "at least 1"),
        ((4, 4.5, 4), torch.eye(4), "whole numbers"),
        ((4, 4, 4), torch.eye(3), "4 x 4"),
        ((4, 4), torch.full((3, 3), float("nan")), "finite"),
        ((4, 4), torch.ones(3, 3), "last row"),
        ((4, 4, 4), torch.diag(torch.tensor([1.0, 0, 1, 1])), "not invertible"),
        ((4, 4), torch.tensor([[1.0, 2, 0], [1, 2, 0], [0, 0, 1]]), "not invertible"),
    ],
)
def test_impossible_grids_are_refused(shape: tuple[int, ...], affine: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(shape, affine)


def test_changing_the_affine_afterwards_does_not_change_the_grid() -> None:
    affine = torch.eye(4, dtype=torch.float64)
    grid = Grid((4, 4, 4), affine)
    affine[0, 3] = 7
    assert grid.affine[0, 3] == 0
