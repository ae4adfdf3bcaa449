# SPDX-License-Identifier: Apache-2.0
"""Centers against closed forms, the threshold against SimpleITK."""

import pytest
import SimpleITK as sitk
import torch

from regplugins.registration import Volume, align_centers_of_mass, align_fields_of_view, center_of_mass, otsu_threshold
from tests.itk_truth import GRIDS

everywhere = pytest.mark.parametrize("name", GRIDS)


def boxed(name: str, inside: float, outside: float) -> tuple[Volume, torch.Tensor]:
    """A box of one value in another, and its center in the world."""
    grid = GRIDS[name]
    values = torch.full(grid.shape, outside)
    low, high = [size // 4 for size in grid.shape], [size // 2 + 1 for size in grid.shape]
    values[tuple(map(slice, low, high))] = inside
    middle = (torch.tensor(low, dtype=torch.float64) + torch.tensor(high) - 1) / 2
    return Volume("fixed", values, grid), grid.index_to_world(middle)


@everywhere
@pytest.mark.parametrize(("inside", "outside"), [(300.0, 0.0), (40.0, -1024.0), (-500.0, -1024.0)])
def test_center_of_a_box(name: str, inside: float, outside: float) -> None:
    volume, center = boxed(name, inside, outside)
    torch.testing.assert_close(center_of_mass(volume), center, atol=1e-6, rtol=0)


def test_what_is_brighter_weighs_more() -> None:
    values = torch.full((11, 4), -1000.0)
    values[2], values[8] = 0.0, 1000.0  # 1000 and 2000 above the background
    grid = GRIDS["2-D oblique"].resized([1.7, 1.4], (11, 4))
    center = grid.index_to_world(torch.tensor([(2 + 2 * 8) / 3, 1.5], dtype=torch.float64))
    torch.testing.assert_close(center_of_mass(Volume("fixed", values, grid)), center, atol=1e-6, rtol=0)


def test_mask_bounds_the_center() -> None:
    volume, center = boxed("oblique", 300.0, 0.0)
    distracted = volume.values.clone()
    distracted[-3:] = 500
    mask = torch.ones_like(distracted, dtype=torch.bool)
    mask[-3:] = False
    masked = Volume("fixed", distracted, volume.grid, mask)
    torch.testing.assert_close(center_of_mass(masked), center, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("fixed", "moving"), [("oblique", "left-handed oblique"), ("2-D", "2-D oblique")])
def test_alignments_are_the_translations_between_the_centers(fixed: str, moving: str) -> None:
    (a, a_center), (b, b_center) = boxed(fixed, 900.0, 10.0), boxed(moving, 50.0, -1000.0)
    transform = align_centers_of_mass(a, b)
    torch.testing.assert_close(transform(a_center), b_center, atol=1e-6, rtol=0)
    torch.testing.assert_close(transform(a_center + 5), b_center + 5, atol=1e-6, rtol=0)
    views = align_fields_of_view(a.grid, b.grid)
    torch.testing.assert_close(views(a.grid.center - 3), b.grid.center - 3, atol=1e-9, rtol=0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_threshold_equals_that_of_simpleitk(share: float) -> None:
    bright = round(4000 * share)
    values = torch.cat([torch.randn(bright) * 60 + 700, torch.randn(4000 - bright) * 90 - 100])
    theirs = sitk.OtsuThresholdImageFilter()
    theirs.SetNumberOfHistogramBins(256)
    theirs.Execute(sitk.GetImageFromArray(values.view(40, -1).numpy()))
    width = float(values.max() - values.min()) / 256
    assert otsu_threshold(values) == pytest.approx(theirs.GetThreshold(), abs=1.01 * width)


def test_threshold_parts_any_two_values() -> None:
    for low, high in ((0.0, 1e-6), (-1e6, 3.0), (5.0, 6.0)):
        assert low <= otsu_threshold(torch.tensor([low, low, high])) < high
