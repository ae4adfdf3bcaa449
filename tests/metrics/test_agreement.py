# SPDX-License-Identifier: Apache-2.0
"""Agreement of blocks with known overlap."""

import math

import pytest
import torch

from regplugins.metrics import warped_agreement


def block(first: int) -> torch.Tensor:
    """Block of ten voxels per axis that starts at ``first`` along the first axis, brighter in its middle."""
    image = torch.zeros(1, 24, 20, 20)
    image[:, first : first + 10, 5:15, 5:15] = 100.0
    image[:, first + 4 : first + 6, 9:11, 9:11] = 110.0
    return image


def test_an_image_agrees_with_itself():
    assert warped_agreement(block(6), block(6), 50.0, [2.0] * 3) == pytest.approx(
        dict.fromkeys(("dice", "jaccard", "precision", "sensitivity", "contour", "ssim"), 1.0), abs=1e-5
    )


def test_overlap_of_a_block_that_is_shifted():
    scores = warped_agreement(block(8), block(6), 50.0, [2.0] * 3)
    assert scores["dice"] == pytest.approx(0.8)
    assert scores["jaccard"] == pytest.approx(8 / 12)
    assert scores["precision"] == scores["sensitivity"] == pytest.approx(0.8)
    assert scores["ssim"] < 0.95


def test_contours_within_the_tolerance():
    """The blocks are shifted by two voxels of 2 mm."""
    near, far = (
        warped_agreement(block(8), block(6), 50.0, [2.0] * 3, tolerance)["contour"] for tolerance in (4.1, 3.9)
    )
    assert near == pytest.approx(1.0)
    assert 0.5 < far < 0.95


def test_larger_than_it_should_be():
    large = block(6)
    large[:, 16:18, 5:15, 5:15] = 100.0
    scores = warped_agreement(large, block(6), 50.0, [1.0] * 3)
    assert scores["sensitivity"] == 1
    assert scores["precision"] == pytest.approx(10 / 12)


def test_a_patient_who_is_nowhere():
    nothing = torch.rand(1, 24, 20, 20)
    scores = warped_agreement(nothing, nothing, 50.0, [1.0] * 3)
    assert math.isnan(scores["dice"]) and math.isnan(scores["jaccard"]) and math.isnan(scores["sensitivity"])


def test_few_slices():
    slab = block(6)[..., 8:12]
    assert warped_agreement(slab, slab, 50.0, [2.0] * 3)["ssim"] == pytest.approx(1.0)


def test_nothing_left():
    scores = warped_agreement(torch.zeros(1, 24, 20, 20), block(6), 50.0, [1.0] * 3)
    assert scores["dice"] == scores["precision"] == scores["sensitivity"] == 0
