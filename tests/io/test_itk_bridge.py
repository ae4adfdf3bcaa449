# SPDX-License-Identifier: Apache-2.0
"""Images and transforms mean to ITK what they mean here."""

import gc

import itk
import pytest
import torch

from regplugins.io.itk_bridge import affine_parameters, image_to_itk, itk_class
from regplugins.spatial import AffineTransform
from tests.itk_truth import GRIDS, points_in, random_affine

# LPS
SIGNS = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("name", GRIDS)
def test_every_voxel_lies_where_the_grid_says(name: str) -> None:
    grid = GRIDS[name]
    values = torch.rand(grid.shape)
    image = image_to_itk(values, grid)
    assert tuple(image.GetLargestPossibleRegion().GetSize()) == grid.shape
    for _ in range(20):
        index = [int(torch.randint(size, ())) for size in grid.shape]
        assert image.GetPixel(index) == values[tuple(index)].item()
        point = torch.tensor(list(image.TransformIndexToPhysicalPoint(index)), dtype=torch.float64)
        expected = grid.index_to_world(torch.tensor(index, dtype=torch.float64)) * SIGNS[: grid.ndim]
        torch.testing.assert_close(point, expected, atol=1e-9, rtol=0)


def test_voxels_outlive_the_tensor() -> None:
    grid = GRIDS["small"]
    values = torch.full(grid.shape, 7, dtype=torch.uint8)
    image = image_to_itk(values, grid)
    values.zero_()
    del values
    gc.collect()
    assert image.GetPixel([1, 2, 3]) == 7


@pytest.mark.parametrize("ndim", [2, 3])
def test_parameters_move_points_as_the_matrix_does(ndim: int) -> None:
    transform = AffineTransform(random_affine(ndim))
    theirs = itk_class("AffineTransform", f"D{ndim}").New()
    theirs.SetParameters(affine_parameters(transform.matrix))
    for point in points_in(GRIDS["2-D" if ndim == 2 else "oblique"], 5):
        mapped = theirs.TransformPoint((point * SIGNS[:ndim]).tolist())
        mapped = torch.tensor(list(mapped), dtype=torch.float64) * SIGNS[:ndim]
        torch.testing.assert_close(mapped, transform(point), atol=1e-9, rtol=0)


def test_classes_are_those_of_the_public_interface() -> None:
    assert itk_class("AffineTransform", "D3") is itk.AffineTransform[itk.D, 3]
