# SPDX-License-Identifier: Apache-2.0
"""Registration by mutual information recovers known motions of a synthetic head, for all contrasts and grids."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from regplugins.registration import Volume, mutual_information, refine_rigid
from regplugins.spatial import AffineTransform, Grid
from tests.itk_truth import GRIDS, make_grid, rotation
from tests.registration.heads import Contrast, aligned, ct, head, head_points, motion, mr, t2

FIXED = make_grid((64, 64, 64), np.eye(3), (2.6, 2.9, 2.5), (2.1, -4.2, 7.3))
THICK = make_grid((90, 96, 40), np.eye(3)[[1, 2, 0]], (1.9, 1.9, 4.2), (20.0, -20.0, 20.0))
OBLIQUE = make_grid((66, 68, 64), rotation(3, -25) @ np.diag([1.0, 1, -1]), (2.8, 2.8, 2.8), (20.0, -20.0, 20.0))
FLAT = make_grid((96, 110), np.eye(2), (1.8, 1.7), (2.1, -4.2))
FLAT_OBLIQUE = make_grid((120, 100), rotation(2, 20) @ np.diag([1.0, -1]), (1.7, 1.9), (12.1, -14.2))


def largest_error(found: AffineTransform, truth: Tensor) -> float:
    """Largest distance in mm, over the head, between where the two take a point."""
    points = head_points(found.ndim)
    return float((found(points) - AffineTransform(truth)(points)).norm(dim=-1).max())


def angle(found: AffineTransform, truth: Tensor) -> float:
    """Degrees between the two transforms' rotations."""
    n = found.ndim
    rest = torch.linalg.inv(truth)[:n, :n] @ found.matrix[:n, :n]
    cosine = (rest.trace() - (n - 2)) / 2
    return math.degrees(math.acos(min(1.0, cosine.item())))


@pytest.mark.parametrize(
    ("fixed", "moving", "fixed_contrast", "moving_contrast", "degrees", "shift"),
    [
        (FIXED, FIXED, mr, ct, 15.0, (14.0, -11.0, 9.0)),
        (FIXED, OBLIQUE, ct, mr, 18.0, (-12.0, 8.0, 15.0)),
        (FIXED, THICK, mr, ct, -12.0, (9.0, 14.0, -11.0)),
        (FLAT, FLAT_OBLIQUE, mr, ct, 17.0, (14.0, -11.0)),
    ],
    ids=["CT to MR", "MR to CT, left-handed oblique", "thick slices, other axes", "2-D"],
)
def test_rigid(
    fixed: Grid,
    moving: Grid,
    fixed_contrast: Contrast,
    moving_contrast: Contrast,
    degrees: float,
    shift: tuple[float, ...],
) -> None:
    truth = motion(degrees, shift)
    images = head(fixed_contrast, fixed), head(moving_contrast, moving, truth)
    found = aligned("rigid", images[0], fixed, images[1], moving)
    assert largest_error(found, truth) < 1
    assert angle(found, truth) < 1
    linear = found.matrix[:-1, :-1]
    torch.testing.assert_close(linear @ linear.T, torch.eye(fixed.ndim, dtype=torch.float64), atol=1e-9, rtol=0)
    assert torch.linalg.det(linear) > 0


@pytest.mark.parametrize(
    ("fixed", "moving", "shift"),
    [(FIXED, OBLIQUE, (10.0, -8.0, 12.0)), (FLAT, FLAT_OBLIQUE, (14.0, -11.0))],
    ids=["3-D", "2-D"],
)
def test_affine(fixed: Grid, moving: Grid, shift: tuple[float, ...]) -> None:
    truth = motion(10.0, shift, stretch=0.1)
    images = head(mr, fixed), head(t2, moving, truth)
    assert largest_error(aligned("center", images[0], fixed, images[1], moving), truth) > 5
    assert largest_error(aligned("affine", images[0], fixed, images[1], moving), truth) < 1


def test_same_seed_same_bits() -> None:
    images = head(mr, FLAT), head(ct, FLAT, motion(9.0, (5.0, -7.0)))
    one, same, other = (aligned("rigid", images[0], FLAT, images[1], FLAT, seed=seed).matrix for seed in (4, 4, 5))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, atol=0.5, rtol=0)


def test_images_that_fit_stay_where_they_are() -> None:
    image = torch.rand(1, *GRIDS["oblique"].shape)
    found = aligned("rigid", image, GRIDS["oblique"], image, GRIDS["oblique"])
    torch.testing.assert_close(found.matrix, torch.eye(4, dtype=torch.float64), atol=0.02, rtol=0)


def test_two_partial_views_are_not_pushed_apart() -> None:
    # Each image shows another two thirds of the head; what they share in a corner must not win.
    truth = motion(8.0, (4.0, -6.0))
    left, right = FLAT.resized([1.8, 1.7], (64, 110)), FLAT.resized([1.8, 1.7], (96, 74))
    found = aligned("rigid", head(mr, left), left, head(ct, right, truth), right)
    assert largest_error(found, truth) < 1


def test_fields_of_view_that_overlap_by_half() -> None:
    # The upper three quarters of the head, and its lower three quarters; of what either shows, the other lacks a third.
    truth = motion(14.0, (12.0, -9.0, 15.0))
    upper = make_grid((64, 64, 40), np.eye(3), (2.6, 2.9, 2.5), (2.1, -4.2, 30.0))
    lower = make_grid((64, 64, 40), np.eye(3), (2.6, 2.9, 2.5), (14.1, -13.2, -2.0))
    shared = upper.shape[2] * 2.5 - (upper.center - lower.center)[2] - 15.0
    assert 0.4 < shared / (upper.shape[2] * 2.5) < 0.6
    found = aligned("rigid", head(mr, upper), upper, head(t2, lower, truth), lower)
    assert largest_error(found, truth) < 1.5


def test_a_small_piece_stays_where_its_header_puts_it() -> None:
    """It holds so few of the points on which starts are compared that nothing can be told from them."""
    grid = make_grid((96, 96, 192), np.eye(3), (2.0, 2.0, 1.0), (2.1, -4.2, 7.3))
    start = torch.eye(4, dtype=torch.float64)
    start[:3, 3] = torch.tensor([18.0, 8.0, 9.0])
    piece = Grid((27, 27, 27), start)
    found = aligned("rigid", head(mr, grid), grid, head(t2, piece), piece)
    corners = piece.index_to_world(torch.cartesian_prod(*[torch.tensor([0.0, 27.0])] * 3).double())
    assert (found(corners) - corners).norm(dim=-1).max() < 4


def test_masks_hide_what_does_not_move_along() -> None:
    truth = motion(12.0, (16.0, 5.0))
    fixed, moving = head(mr, FLAT), head(ct, FLAT, truth)
    fixed_mask, moving_mask = torch.ones_like(fixed), torch.ones_like(moving)
    # A bright frame of the scanner, on the same place in both images.
    for image, mask in ((fixed, fixed_mask), (moving, moving_mask)):
        image[..., :12] = image.max() * (1 + torch.rand(1, 96, 12))
        mask[..., :12] = 0
    found = aligned("rigid", fixed, FLAT, moving, FLAT, fixed_mask=fixed_mask, moving_mask=moving_mask)
    assert largest_error(found, truth) < 1


def test_says_what_cannot_be_registered() -> None:
    image = torch.rand(1, *GRIDS["ras"].shape)
    mask = torch.zeros_like(image)
    mask[0, 3, 3, 3:5] = 1
    with pytest.raises(ValueError, match=r"share .* is too little or constant"):
        aligned("rigid", image, GRIDS["ras"], image, GRIDS["ras"], fixed_mask=mask, moving_mask=mask.roll(9, dims=3))


@pytest.mark.parametrize(
    ("fixed", "moving", "moving_contrast", "degrees"),
    [(FIXED, OBLIQUE, ct, -85.0), (FLAT, FLAT_OBLIQUE, ct, 90.0)],
    ids=["3-D", "2-D"],
)
def test_heads_turned_aside(fixed: Grid, moving: Grid, moving_contrast: Contrast, degrees: float) -> None:
    truth = motion(degrees, (9.0, -7.0, 6.0)[: fixed.ndim])
    images = head(mr, fixed), head(moving_contrast, moving, truth)
    found = aligned("rigid", images[0], fixed, images[1], moving)
    assert largest_error(found, truth) < 1.5


@pytest.mark.parametrize(("degrees", "seed"), [(-170.0, 1), (-92.0, 2)])
def test_noisy_heads_turned_far_of_which_one_lacks_a_third(degrees: float, seed: int) -> None:
    """Before any is optimized, wrong poses score higher than the right one."""
    truth = motion(degrees, (6.0, -8.0, 3.0))
    noise = torch.Generator().manual_seed(seed)
    images = head(mr, FIXED), head(t2, OBLIQUE, truth)
    fixed, moving = (image + 0.15 * image.max() * torch.randn(image.shape, generator=noise) for image in images)
    start = torch.eye(4, dtype=torch.float64)
    start[2, 3] = 22
    upper = fixed[..., 22:]
    found = aligned("rigid", upper, Grid(tuple(upper.shape[1:]), FIXED.affine @ start), moving, OBLIQUE)
    assert largest_error(found, truth) < 5


def test_two_steps_rank_rotated_poses_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    images = (("fixed", mr, FIXED, None), ("moving", ct, OBLIQUE, motion(150.0, (9.0, -7.0, 6.0))))
    volumes = [Volume.prepare(name, head(contrast, grid, moved), grid) for name, contrast, grid, moved in images]
    coarse = [volume.downsampled(32**3) for volume in volumes]
    found = mutual_information._best_rotated_poses(*coarse, seed=0)
    monkeypatch.setattr(mutual_information, "_SCREENING_SAMPLES", mutual_information._SCREENING_SAMPLES[-1:])
    monkeypatch.setattr(mutual_information, "_SCREENED", None)
    truth = mutual_information._best_rotated_poses(*coarse, seed=0)
    assert [pose.matrix.tolist() for pose in found] == [pose.matrix.tolist() for pose in truth]


def test_polish_ends_at_the_truth_from_nearby_and_stays_rigid() -> None:
    """A start that is lost is passed over."""
    truth = motion(12.0, (8.0, -6.0, 5.0))
    volumes = [
        Volume.prepare(name, head(contrast, grid, moved), grid)
        for name, contrast, grid, moved in (("fixed", mr, FIXED, None), ("moving", ct, OBLIQUE, truth))
    ]
    start = AffineTransform(motion(4.0, (3.0, -4.0, 4.0)) @ truth)
    assert largest_error(start, truth) > 5
    lost = AffineTransform(motion(60.0, (40.0, -30.0, 30.0)) @ truth)
    found = refine_rigid(*volumes, [lost, start])
    assert largest_error(found, truth) < 1
    rotation_part = found.matrix[:3, :3]
    torch.testing.assert_close(rotation_part @ rotation_part.T, torch.eye(3, dtype=torch.float64), atol=1e-9, rtol=0)
