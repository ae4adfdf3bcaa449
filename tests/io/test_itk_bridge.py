# SPDX-License-Identifier: Apache-2.0
"""Images and transforms mean to ITK what they mean here."""

import gc

import pytest
import torch

from regplugins.io.itk_bridge import image_to_itk
from tests.itk_truth import GRIDS

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
