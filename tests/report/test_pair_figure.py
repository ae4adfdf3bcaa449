# SPDX-License-Identifier: Apache-2.0
"""Landmarks, headings and warnings in the picture of a pair."""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from regplugins.report import pair_figure
from regplugins.spatial import AffineTransform
from regplugins.transforms import ApplyTransformPaird, EvaluatePaird
from tests.report.test_figure import FIXED, MOVING, colored

SHAPE = (40, 30)
SHIFT = 6.0


@pytest.fixture
def pair() -> dict[str, Any]:
    """A 2-D pair registered by a shift along the first axis; its landmarks say so."""
    fixed = torch.rand(1, *SHAPE)
    points = torch.tensor([[20.0, 10.0], [14.0, 22.0]])
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[0, 2] = SHIFT
    loaded = {
        "fixed": MetaTensor(fixed, affine=torch.eye(4)),
        "moving": MetaTensor(fixed.roll(int(SHIFT), dims=1), affine=torch.eye(4)),
        "fixed_landmarks": points,
        "moving_landmarks": points + torch.tensor([SHIFT, 0.0]),
        "paths": {"fixed": "scans/a/fixed.nii.gz", "moving": "scans/b/moving.png"},
        "seconds": {},
    }
    return EvaluatePaird()(ApplyTransformPaird(AffineTransform(matrix))(loaded))


def pixels(folder: Path, pair: dict[str, Any]) -> np.ndarray:
    pair_figure(folder / "report.png", pair)
    with Image.open(folder / "report.png") as image:
        return np.asarray(image.convert("RGB"))


def test_moving_landmarks_lie_on_the_fixed_ones_after_registration(tmp_path: Path, pair: dict[str, Any]) -> None:
    picture = pixels(tmp_path, pair)
    panels = picture[: round(0.8 * len(picture))]  # not the key
    third = panels.shape[1] // 7
    fixed, moving = (
        [colored(panels[:, third * k : third * (k + 1)], color).sum() for k in range(4)] for color in (FIXED, MOVING)
    )
    assert fixed[0] == pytest.approx(fixed[2], rel=0.1) and fixed[3] == 0
    assert moving[1] == pytest.approx(fixed[1], rel=0.3)
    assert moving[0] == moving[2] == 0  # behind the fixed ones


def words(path: Path, pair: dict[str, Any], init: str | None = None) -> str:
    """The text of a pair's picture."""
    with mpl.rc_context({"svg.fonttype": "none"}):
        pair_figure(path, pair, init)
    return " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8")))


def test_headings_name_the_initial_alignment_and_what_folding_is_of(tmp_path: Path, pair: dict[str, Any]) -> None:
    text = words(tmp_path / "a.svg", pair, "affine")
    assert "Moving initial alignment (affine)" in text
    assert "Jacobian: no folding on the registration grid" in text
    assert "initial alignment (file)" in words(tmp_path / "b.svg", pair, "scans/start.tfm")
    assert "Moving before registration" in words(tmp_path / "c.svg", pair)


def test_the_motion_of_the_affine_part_is_named(tmp_path: Path, pair: dict[str, Any]) -> None:
    assert f"affine part: rotation 0.0°, translation {SHIFT:.1f} mm" in words(tmp_path / "a.svg", pair)


def test_only_nifti_says_which_side_is_which_in_two_dimensions(tmp_path: Path, pair: dict[str, Any]) -> None:
    letters = pixels(tmp_path, pair)
    pair["paths"]["fixed"] = "scans/a/fixed.png"
    assert not np.array_equal(pixels(tmp_path, pair), letters)
    pair["paths"]["fixed"] = "scans/a/other.nii.gz"
    assert np.array_equal(pixels(tmp_path, pair), letters)


def test_warnings_name_files_without_their_folders(tmp_path: Path, pair: dict[str, Any]) -> None:
    shown = [
        pixels(tmp_path, {**pair, "warnings": [f"{path}: is odd"]}) for path in ("scans/b/moving.png", "moving.png")
    ]
    assert np.array_equal(*shown)
    assert len(shown[0]) > len(pixels(tmp_path, pair))
