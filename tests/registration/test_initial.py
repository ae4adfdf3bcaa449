# SPDX-License-Identifier: Apache-2.0
"""Initial transforms for each value of ``init``."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from regplugins.io import write_transform
from regplugins.registration import initial, initial_transform
from regplugins.spatial import AffineTransform, Grid, SpatialTransform
from tests.itk_truth import GRIDS, make_grid, random_affine, random_field
from tests.registration.heads import aligned, head, motion, mr, on_grids, t2
from tests.registration.pairs import textured

FIXED, MOVING = GRIDS["oblique"], GRIDS["left-handed oblique"]
IMAGES = (torch.rand(1, *FIXED.shape), FIXED, torch.rand(1, *MOVING.shape), MOVING)


def test_none_is_the_identity() -> None:
    assert torch.equal(aligned("none", *IMAGES).matrix, torch.eye(4, dtype=torch.float64))


def test_fov_needs_no_contents() -> None:
    blank = (torch.zeros(1, *FIXED.shape), FIXED, torch.zeros(1, *MOVING.shape), MOVING)
    transform = aligned("fov", *blank)
    torch.testing.assert_close(transform(FIXED.center), MOVING.center)
    assert torch.equal(transform.matrix[:3, :3], torch.eye(3, dtype=torch.float64))


def test_center_of_monai_images() -> None:
    fixed, moving = torch.zeros(1, *FIXED.shape), torch.full((1, *MOVING.shape), -1024.0)
    fixed[0, 5:8, 9:12, 3:6], moving[0, 11:14, 2:5, 8:11] = 700.0, 60.0
    transform = aligned("center", MetaTensor(fixed), FIXED, MetaTensor(moving), MOVING)
    start, end = torch.tensor([6.0, 10.0, 4.0]).double(), torch.tensor([12.0, 3.0, 9.0]).double()
    torch.testing.assert_close(transform(FIXED.index_to_world(start)), MOVING.index_to_world(end))


@pytest.mark.parametrize("name", ["t.mat", "t.txt", "t.h5"])
def test_affine_of_a_file(name: str, tmp_path: Path) -> None:
    matrix = random_affine(3)
    write_transform(AffineTransform(matrix), tmp_path / name)
    torch.testing.assert_close(aligned(str(tmp_path / name), *IMAGES).matrix, matrix)


@pytest.mark.parametrize(
    ("name", "transform", "message"),
    [
        ("warp.nii.gz", random_field(FIXED), "holds a DisplacementField.*must be affine"),
        ("flat.mat", AffineTransform(random_affine(2)), "holds a 2-D transform, the images are 3-D"),
    ],
)
def test_file_of_another_transform(name: str, transform: SpatialTransform, message: str, tmp_path: Path) -> None:
    write_transform(transform, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        aligned(str(tmp_path / name), *IMAGES)


@pytest.mark.parametrize("init", ["com", "missing.mat", "Rigid", ""])
def test_unknown_word(init: str) -> None:
    with pytest.raises(ValueError, match=f"none, fov, center, rigid, affine or a transform file, got '{init}'"):
        aligned(init, *IMAGES)


def test_british_spelling_is_answered() -> None:
    with pytest.raises(ValueError, match=r"^init=centre: use center$"):
        aligned("centre", *IMAGES)


@pytest.mark.parametrize("init", [[1], True, None, 3.0, {}])
def test_what_is_no_word(init: object) -> None:
    with pytest.raises(ValueError, match=f"affine or a transform file, got {re.escape(repr(init))}$"):
        aligned(init, *IMAGES)  # type: ignore[arg-type]


def test_images_of_different_dimension() -> None:
    flat = GRIDS["2-D"]
    with pytest.raises(ValueError, match="2-D fixed image and a 3-D moving one"):
        aligned("fov", torch.rand(1, *flat.shape), flat, *IMAGES[2:])


def moved_head() -> tuple[tuple[Tensor, Grid, Tensor, Grid], AffineTransform]:
    """Head in two contrasts, and the transform that aligns it."""
    grid, truth = make_grid((96, 110), np.eye(2), (1.8, 1.7), (2.1, -4.2)), motion(9.0, (14.0, -11.0))
    return (head(mr, grid), grid, head(t2, grid, truth), grid), AffineTransform(truth)


def test_the_first_start_is_kept_unless_another_is_clearly_better() -> None:
    pair, truth = moved_head()
    images = on_grids(*pair)
    far = AffineTransform(motion(0.0, (900.0, 0.0)))
    nearly = AffineTransform(motion(9.05, (14.0, -11.0)))
    best = initial._best_start
    assert best(*images, {"away": AffineTransform.identity(2), "there": truth}) == "there"
    assert best(*images, {"there": truth, "away": AffineTransform.identity(2)}) == "there"
    assert best(*images, {"nearly": nearly, "there": truth}) == "nearly"
    assert best(*images, {"there": truth, "far": far}) == "there"
    assert best(*images, {"far": far, "there": truth}) == "there"


def sliding_pair(millimeters: float) -> tuple[Tensor, Grid, Tensor, Grid]:
    """A textured wall that stays, and beside it a brighter organ that has slid along it."""
    grid = make_grid((96, 96), np.eye(2), (2.0, 2.0), (0.0, 0.0))
    wall = textured(96, 96)[0, 0, :, :52]
    wall = 0.3 + 0.02 * (wall - wall.mean()) / wall.std()

    def image(shift: int) -> Tensor:
        values = torch.zeros(1, 96, 96)
        values[0, :, :52] = wall
        for rows, columns, value in (((10, 70), (56, 92), 1.0), ((20, 40), (62, 74), 0.7), ((25, 40), (78, 88), 0.85)):
            values[0, rows[0] + shift : rows[1] + shift, slice(*columns)] = value
        return values + 0.003 * torch.randn(1, 96, 96)

    return image(0), grid, image(round(millimeters / 2)), grid


def test_auto_leaves_a_wall_where_it_is_along_which_an_organ_slides(caplog: pytest.LogCaptureFixture) -> None:
    images = sliding_pair(16.0)
    affine = aligned("affine", *images)
    assert affine.matrix[0, 2] > 15  # it follows the organ
    with caplog.at_level("INFO", "regplugins.registration.initial"):
        name, found = initial_transform("auto", *on_grids(*images))
        masked = initial_transform("auto", *on_grids(*images), fixed_mask=torch.ones_like(images[0]))
    # Another test may have raised the level of all our loggers.
    messages = [record.message for record in caplog.records if record.name == initial.__name__]
    assert name == "none"
    assert torch.equal(found.matrix, torch.eye(3, dtype=torch.float64))
    assert masked[0] == "affine"
    assert masked[1].matrix[0, 2] > 15
    assert [message.split(":")[0] for message in messages] == ["init none", "init affine"]


def test_auto_is_affine_where_a_head_has_moved() -> None:
    images, _ = moved_head()
    name, found = initial_transform("auto", *on_grids(*images))
    assert name == "affine"
    assert torch.equal(found.matrix, aligned("affine", *images).matrix)
