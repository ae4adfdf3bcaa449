# SPDX-License-Identifier: Apache-2.0
"""Volumes prepared for alignment keep their position, and their values except for outliers."""

import math

import numpy as np
import pytest
import torch

from regplugins.registration import Volume
from regplugins.spatial import Grid
from tests.itk_truth import GRIDS, make_grid, rotation

FINE = make_grid((150, 140, 131), rotation(3, 20) @ np.diag([1.0, 1, -1]), (0.9, 1.1, 1.3), (3.0, -5.0, 8.0))


def test_shrinking_keeps_places() -> None:
    # A function linear in the world is its own mean over any block of voxels, taken at the block's center.
    slope = torch.tensor([1.5, -0.7, 0.4], dtype=torch.float64)
    for size in (50_000, 3_000, 1):
        volume = Volume("fixed", (FINE.coordinates() @ slope).float(), FINE).downsampled(size)
        assert volume.values.numel() <= size
        torch.testing.assert_close(volume.values.double(), volume.grid.coordinates() @ slope, atol=1e-3, rtol=0)


def test_blocks_are_as_equal_in_mm_as_they_can_be() -> None:
    grid = make_grid((256, 256, 40), np.eye(3), (0.5, 0.5, 4.0), (0.0, 0.0, 0.0))
    spacing = Volume("fixed", torch.zeros(grid.shape), grid).downsampled(32 * 32 * 40).grid.spacing
    assert spacing.tolist() == [4, 4, 4]


def test_a_small_volume_stays_the_same_object() -> None:
    volume = Volume("fixed", torch.rand(4, 5, 6), make_grid((4, 5, 6), np.eye(3), (1, 1, 1), (0, 0, 0)))
    assert volume.downsampled(120) is volume


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.float16, torch.float64])
def test_any_type_becomes_few_float32_means(dtype: torch.dtype) -> None:
    image = torch.randint(0, 200, (1, *FINE.shape)).to(dtype)
    volume = Volume.prepare("fixed", image, FINE)
    assert volume.values.dtype == torch.float32
    assert volume.values.numel() <= 128**3 < math.prod(FINE.shape)
    blocks = [n // m for n, m in zip(FINE.shape, volume.grid.shape, strict=True)]
    corner = image[(0, *[slice(block) for block in blocks])].double().mean().item()
    assert volume.values[0, 0, 0].item() == pytest.approx(corner, abs=1e-4)


def test_outliers_and_padding_are_clipped_and_the_original_is_not() -> None:
    grid = GRIDS["ras"]
    image = torch.linspace(-1000, 1000, math.prod(grid.shape)).view(1, *grid.shape)
    image[0, 0, 0, :3] = 30_000
    image[0, 1, :, :5] = -3024
    before = image.clone()
    values = Volume.prepare("fixed", image, grid).values
    assert values.min() == -1024
    assert 900 < values.max() <= 1000
    assert torch.equal(image, before)


def test_an_offset_of_intensities_changes_nothing_but_padding_far_below_air_is_clipped() -> None:
    grid = GRIDS["ras"]
    image = torch.linspace(0, 40_000, math.prod(grid.shape)).view(1, *grid.shape)
    values = Volume.prepare("fixed", image, grid).values
    torch.testing.assert_close(Volume.prepare("fixed", image - 32_768, grid).values, values - 32_768, atol=0.01, rtol=0)
    ct = torch.linspace(-1000, 1000, math.prod(grid.shape)).view(1, *grid.shape)
    ct[0, 0] = -32_768
    assert Volume.prepare("fixed", ct, grid).values.min() == -1024


def test_mask_covers_every_block_that_it_touches() -> None:
    mask = torch.zeros(1, *FINE.shape)
    mask[0, 77, 66, 55] = 1
    volume = Volume.prepare("moving", torch.rand(1, *FINE.shape), FINE, torch.ones_like(mask)).downsampled(4_000)
    assert volume.mask is not None and volume.mask.all()
    index = torch.tensor([[77.0, 66, 55]], dtype=torch.float64)
    touched = Volume("moving", torch.rand(FINE.shape), FINE, mask[0].bool()).downsampled(4_000)
    assert touched.mask is not None and touched.mask.sum() == 1
    place = touched.grid.world_to_index(FINE.index_to_world(index)).round()
    assert place.tolist() == touched.mask.nonzero().tolist()


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (torch.rand(4, 5, 6), None, r"fixed image has shape \(4, 5, 6\), expected \(1, 4, 5, 6\)"),
        (torch.rand(1, 4, 5, 6), torch.ones(1, 4, 5, 5), r"fixed mask has shape \(1, 4, 5, 5\)"),
        (torch.rand(1, 4, 5, 6), torch.zeros(1, 4, 5, 6), "fixed mask is empty"),
        (torch.full((1, 4, 5, 6), torch.nan), None, "fixed image has values that are not finite"),
        (torch.full((1, 4, 5, 6), 3.5), None, r"fixed image is constant \(3.5\)"),
        (
            torch.ones(1, 4, 5, 6).triu(),
            torch.ones(1, 4, 5, 6).triu(),
            r"fixed image is constant within its mask \(1\)",
        ),
    ],
    ids=["no channel", "mask of another shape", "empty mask", "NaN", "constant", "constant in mask"],
)
def test_refuses(image: torch.Tensor, mask: torch.Tensor | None, message: str) -> None:
    grid = Grid((4, 5, 6), torch.eye(4, dtype=torch.float64))
    with pytest.raises(ValueError, match=message):
        Volume.prepare("fixed", image, grid, mask)
