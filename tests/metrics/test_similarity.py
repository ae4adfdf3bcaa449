# SPDX-License-Identifier: Apache-2.0
"""Similarity against NumPy, SciPy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from regplugins.metrics import mutual_information, normalized_correlation


def test_correlation_is_numpys_over_many_slabs() -> None:
    fixed = torch.randn(1, 700, 900, dtype=torch.float32) + 1000
    image = 0.3 * fixed + torch.randn_like(fixed)
    expected = np.corrcoef(fixed.double().flatten(), image.double().flatten())[0, 1]
    assert normalized_correlation(fixed, image) == pytest.approx(expected, abs=1e-9)


def test_only_what_is_inside_the_mask_counts() -> None:
    fixed, image = torch.randn(1, 8, 9, 10), torch.randn(1, 8, 9, 10)
    mask = torch.rand(1, 8, 9, 10) < 0.4
    expected = np.corrcoef(fixed[mask].double(), image[mask].double())[0, 1]
    assert normalized_correlation(fixed, image, mask) == pytest.approx(expected)
    image[~mask] = 1e6
    assert normalized_correlation(fixed, image, mask.float()) == pytest.approx(expected)
    inside = mutual_information(fixed, image, mask)
    image[~mask] = -3
    assert mutual_information(fixed, image, mask) == inside


def test_a_mask_that_a_regular_subset_misses() -> None:
    image, mask = torch.rand(1, 160, 160, 160), torch.zeros(1, 160, 160, 160, dtype=torch.bool)
    mask[:, :, :, 81] = True
    assert mutual_information(image, image, mask) == pytest.approx(mutual_information(*[image[..., 81]] * 2), abs=1e-6)


def test_correlation_of_integers() -> None:
    fixed = torch.randint(-1024, 3000, (1, 9, 9, 9), dtype=torch.int16)
    assert normalized_correlation(fixed, 2 * fixed.int() + 5) == pytest.approx(1)
    assert normalized_correlation(fixed, -fixed) == pytest.approx(-1)


@pytest.mark.parametrize("value", [0.0, 0.1, -1024.0, 1e7])
def test_constant_image(value: float) -> None:
    fixed, constant = torch.randn(1, 9, 9), torch.full((1, 9, 9), value)
    assert math.isnan(normalized_correlation(fixed, constant))
    assert mutual_information(fixed, constant) == 0
    marked = constant.clone()
    marked[0, 0, 0] = 1234.5  # outside the mask
    mask = marked == constant
    assert math.isnan(normalized_correlation(fixed, marked, mask))


def test_empty_mask() -> None:
    image = torch.randn(1, 4, 4)
    assert math.isnan(normalized_correlation(image, image, torch.zeros(1, 4, 4)))
    assert math.isnan(mutual_information(image, image, torch.zeros(1, 4, 4)))


def test_information_of_a_known_joint_distribution() -> None:
    table = np.array([[30, 5, 1], [2, 40, 3], [4, 6, 9]])
    a, b = np.indices(table.shape)
    fixed, image = (torch.from_numpy(np.repeat(x.ravel(), table.ravel()).reshape(1, 10, 10)) for x in (a, b))
    p = table / table.sum()
    expected = entropy(p.sum(1)) + entropy(p.sum(0)) - entropy(p.ravel())
    assert mutual_information(fixed, image) == pytest.approx(expected)
    remapped = torch.tensor([7.0, -3.0, 100.0])[image]  # another contrast of the same anatomy
    assert mutual_information(fixed, remapped) == pytest.approx(expected)


def test_information_survives_a_few_extreme_voxels() -> None:
    fixed = torch.rand(1, 60, 60)
    extreme = fixed.clone()
    extreme[0, 0, :2] = 1e6
    assert mutual_information(fixed, extreme) == pytest.approx(mutual_information(fixed, fixed), rel=0.02)


def test_images_of_different_grids() -> None:
    with pytest.raises(ValueError, match=r"\(1, 4, 4\), \(1, 4, 5\)"):
        normalized_correlation(torch.zeros(1, 4, 4), torch.zeros(1, 4, 5))
    with pytest.raises(ValueError, match=r"\(1, 4, 4\), \(4, 4\)"):
        mutual_information(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), torch.ones(4, 4))
