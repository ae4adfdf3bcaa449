# SPDX-License-Identifier: Apache-2.0
"""Principal axes and one-plus-one evolution recover known motions of heads."""

import numpy as np
import pytest
import torch
from torch import Tensor

from regplugins.baselines.one_plus_one_es import principal_axes_pose, register_one_plus_one_es
from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform
from tests.itk_truth import make_grid
from tests.registration.heads import ct, head, head_points, motion, mr

GRID = make_grid((44, 48, 44), np.eye(3), (4.0, 4.0, 4.0), (6.0, -9.0, 12.0))


def moved_heads(moved: Tensor) -> tuple[Volume, Volume]:
    """An MR, and a CT of the same head that ``moved`` takes from there."""
    fixed, moving = head(mr, GRID), head(ct, GRID, moved)
    return Volume.prepare("fixed", fixed, GRID), Volume.prepare("moving", moving, GRID)


def error(found: AffineTransform, truth: Tensor) -> float:
    """Mean distance over the head, mm."""
    points = head_points(3)
    return (found(points) - AffineTransform(truth)(points)).norm(dim=1).mean().item()


def quarter_turn(axis: int, sign: float) -> Tensor:
    """About the head's center: its columns are where the axes go."""
    turn = torch.eye(4, dtype=torch.float64)
    a, b = [k for k in range(3) if k != axis]
    turn[a, a] = turn[b, b] = 0.0
    turn[a, b], turn[b, a] = -sign, sign
    center = head_points(3).mean(dim=0)
    turn[:3, 3] = center - turn[:3, :3] @ center
    return turn


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_heads_turned_by_a_right_angle(axis: int, sign: float) -> None:
    truth = quarter_turn(axis, sign)
    assert error(principal_axes_pose(*moved_heads(truth)), truth) < 12


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_heads_that_were_flipped(axis: int) -> None:
    """By two right angles: the axes are the same, their directions are not."""
    truth = quarter_turn(axis, 1.0) @ quarter_turn(axis, 1.0)
    assert error(principal_axes_pose(*moved_heads(truth)), truth) < 12


def test_the_start_is_rigid_and_keeps_the_handedness() -> None:
    rotation = principal_axes_pose(*moved_heads(motion(70, (4.0, -6.0, 3.0)))).matrix[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(rotation) > 0


class TestEvolution:
    def test_ends_nearer_than_it_starts(self) -> None:
        truth = motion(60, (4.0, -6.0, 3.0))
        heads = moved_heads(truth)
        start, found = principal_axes_pose(*heads), register_one_plus_one_es(*heads)
        assert error(found, truth) < min(4.0, 0.8 * error(start, truth))

    def test_without_the_pose_a_small_motion_is_found_and_a_large_one_is_not(self) -> None:
        small, large = motion(6, (2.0, -1.0, 2.0)), motion(90, (2.0, -1.0, 2.0))
        assert error(register_one_plus_one_es(*moved_heads(small), pose=False), small) < 2.5
        assert error(register_one_plus_one_es(*moved_heads(large), pose=False), large) > 20

    def test_the_same_seed_gives_the_same(self) -> None:
        heads = moved_heads(motion(5, (1.0, 0.0, 0.0)))
        first, again = (register_one_plus_one_es(*heads, iterations=10, seed=3).matrix for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, register_one_plus_one_es(*heads, iterations=10, seed=4).matrix)

    def test_images_that_do_not_meet(self) -> None:
        fixed, moving = moved_heads(torch.eye(4, dtype=torch.float64))
        far = GRID.affine.clone()
        far[0, 3] += 2000
        away = Volume("moving", moving.values, type(GRID)(GRID.shape, far))
        with pytest.raises(ValueError, match="do not overlap"):
            register_one_plus_one_es(fixed, away, pose=False)

    def test_in_a_plane(self) -> None:
        grid = make_grid((20, 20), np.eye(2), (4.0, 4.0), (0.0, 0.0))
        flat = Volume("flat", torch.rand(20, 20), grid)
        with pytest.raises(ValueError, match="two 3-D images"):
            register_one_plus_one_es(flat, flat)
