# SPDX-License-Identifier: Apache-2.0
"""Warnings about registrations that failed in a known way, and none about a successful one."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from regplugins.spatial import AffineTransform, DisplacementField, Grid, SpatialTransform
from regplugins.transforms import ApplyTransformPaird, EvaluatePaird
from tests.itk_truth import translation

SHAPE = (40, 36, 32)
SPACING = 4.0
GRID = Grid(SHAPE, torch.diag(torch.tensor([SPACING, SPACING, SPACING, 1.0])))
MIDDLE = GRID.center


def about_the_middle(scale: float = 1.0, degrees: float = 0.0, shift: float = 0.0) -> AffineTransform:
    """Turn about the third axis and scale about the grid's center, then shift along the first axis, mm."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = scale * torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    matrix[:3, 3] = MIDDLE - matrix[:3, :3] @ MIDDLE + torch.tensor([shift, 0, 0], dtype=torch.float64)
    return AffineTransform(matrix)


@pytest.fixture
def pair() -> dict[str, Any]:
    """A body of several tissues; the moving image is it as another modality shows it, 8 mm further along x."""
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.standard_normal(SHAPE), 2)
    body = sum(((x - (n - 1) / 2) / (0.42 * n)) ** 2 for x, n in zip(np.indices(SHAPE), SHAPE, strict=True)) < 1
    tissue = np.where(body, 1 + np.digitize(texture, np.quantile(texture, [0.3, 0.6, 0.85])), 0)
    fixed = np.array([0.0, 80, 160, 240, 320])[tissue] + rng.normal(0, 5, SHAPE)
    other = np.roll(np.array([0.0, 50, 250, 20, 120])[tissue], 2, axis=0) + rng.normal(0, 5, SHAPE)

    def image(array: np.ndarray) -> MetaTensor:
        return MetaTensor(torch.from_numpy(array.astype(np.float32))[None], affine=GRID.affine)

    paths = {key: f"{key}.nii.gz" for key in ("fixed", "moving", "moving_landmarks")}
    return {"fixed": image(fixed), "moving": image(other), "paths": paths, "seconds": {}}


def warnings_of(pair: dict[str, Any], transform: SpatialTransform, start: AffineTransform | None = None) -> list[str]:
    """Warnings about a pair through a transform."""
    return EvaluatePaird()(ApplyTransformPaird(transform, start=start)(pair)).get("warnings", [])


def rough_field(size: float) -> DisplacementField:
    vectors = torch.nn.functional.interpolate(size * torch.randn(1, 3, 7, 7, 7), SHAPE, mode="trilinear")
    return DisplacementField(vectors[0], GRID)


RIGHT = about_the_middle(shift=8.0)


@pytest.mark.parametrize("transform", [RIGHT, RIGHT @ rough_field(0.5), about_the_middle(shift=6.0), RIGHT @ RIGHT])
def test_nothing_is_said_of_a_good_one(pair: dict[str, Any], transform: SpatialTransform) -> None:
    """Nor of one that overshoots: not worse than the start."""
    assert warnings_of(pair, transform) == []


@pytest.mark.parametrize(
    ("transform", "signs"),
    [
        (about_the_middle(shift=70.0), ["less like the fixed image", "hardly like the fixed image"]),
        (RIGHT @ about_the_middle(degrees=90), ["less like the fixed image"]),
        (
            RIGHT @ about_the_middle(scale=2.5),
            [
                "covers 5.83 % of the fixed image after registration (95 % before)",
                "changes volumes by a factor of 15.6 on average;",
            ],
        ),
        (RIGHT @ about_the_middle(scale=0.4), ["changes volumes by a factor of 0.064 on average;"]),
        (RIGHT @ about_the_middle(scale=-1.0), ["a factor of -1 on average, so it mirrors the image"]),
        (about_the_middle(shift=155.0), ["covers 2"]),
        (about_the_middle(shift=88.0), ["covers 45 % of the fixed image after registration (95 % before)"]),
        (RIGHT @ rough_field(12.0), ["folds at"]),
        (RIGHT @ rough_field(200.0), ["exceed the 250 mm of the fixed image"]),
    ],
)
def test_what_is_wrong_is_said(pair: dict[str, Any], transform: SpatialTransform, signs: list[str]) -> None:
    messages = warnings_of(pair, transform, start=RIGHT)
    for sign in signs:
        assert any(message.startswith("moving.nii.gz: ") and sign in message for message in messages), messages


def test_a_start_that_is_wrong_itself_is_seen(pair: dict[str, Any]) -> None:
    """Nothing got worse, since it was bad already."""
    away = about_the_middle(shift=70.0)
    (message,) = warnings_of(pair, away, start=away)
    assert "hardly like the fixed image" in message


def test_a_result_that_is_upside_down(pair: dict[str, Any]) -> None:
    """Nothing fell, since the start was upside down too, and the outline matches as well as before."""
    pair["moving"] = MetaTensor(pair["fixed"].as_tensor().roll(2, dims=1).sqrt().nan_to_num(), affine=GRID.affine)
    over = RIGHT @ about_the_middle(degrees=180)
    sign = "inside both foregrounds it would match the fixed image better after half a turn"
    assert any(message.startswith(f"moving.nii.gz: {sign}") for message in warnings_of(dict(pair), over, start=over))
    pair["fixed_mask"] = MetaTensor(torch.ones(1, *SHAPE), affine=GRID.affine)
    assert any(sign in message for message in warnings_of(pair, over, start=over))


def test_a_homogeneous_body_has_no_right_way_up(pair: dict[str, Any]) -> None:
    body = (pair["fixed"].as_tensor() > 40).float()
    pair |= {key: MetaTensor(100 * body + torch.rand(body.shape), affine=GRID.affine) for key in ("fixed", "moving")}
    assert warnings_of(pair, about_the_middle(), start=about_the_middle()) == []


def test_voxels_a_hundred_times_too_large(pair: dict[str, Any]) -> None:
    affine = torch.diag(torch.tensor([100 * SPACING, 100 * SPACING, 100 * SPACING, 1.0]))
    pair["moving"] = MetaTensor(pair["moving"].as_tensor(), affine=affine)
    shift = Grid.from_image(pair["moving"]).center - MIDDLE
    messages = warnings_of(pair, translation(*shift.tolist()))
    assert any("only 0.0001 % of its field of view lies in the fixed image" in message for message in messages)


def test_landmarks_that_are_farther_apart_than_before(pair: dict[str, Any]) -> None:
    points = MIDDLE.float() + 10 * torch.randn(6, 3)
    pair |= {"fixed_landmarks": points, "moving_landmarks": points + torch.tensor([5.0, 0, 0])}
    message = "moving_landmarks.nii.gz: farther from the fixed landmarks after registration than before "
    assert f"{message}(mean 5.00 → 9.00 mm, maximum 5.00 → 9.00 mm)" in warnings_of(pair, about_the_middle(shift=14.0))
    assert not any(
        "landmarks" in text for text in warnings_of(pair, about_the_middle(shift=10.2))
    )  # a fifth of a voxel more


def with_errors(pair: dict[str, Any], shifts: list[float]) -> list[str]:
    """Warnings about landmarks that were 10 mm apart, of which each then comes nearer by a shift of its own, mm."""
    points = (MIDDLE + 10 * torch.randn(len(shifts), 3, dtype=torch.float64)).float()
    pair |= {"fixed_landmarks": points, "moving_landmarks": points + torch.tensor([10.0, 0, 0])}
    applied = ApplyTransformPaird(about_the_middle())(pair)
    applied["warped_landmarks"] = points + torch.tensor([[shift, 0, 0] for shift in shifts])
    return [text for text in EvaluatePaird()(applied).get("warnings", []) if "landmarks" in text]


def test_landmarks_that_are_a_little_farther_apart_in_most_points(pair: dict[str, Any]) -> None:
    """The p-value of the signed-rank test is 2**-12 if all of 12 differences have one sign: 2e-4."""
    steps = [-0.5 - 0.01 * k for k in range(12)]
    (message,) = with_errors(dict(pair), steps)
    assert message.startswith(
        "moving_landmarks.nii.gz: farther from the fixed landmarks after registration than before"
    )
    assert message.endswith(
        "(mean 10.00 → 10.55 mm, maximum 10.00 → 10.61 mm, Wilcoxon test over 12 points: p = 0.0002)"
    )
    assert with_errors(dict(pair), steps[:9]) == []  # too few
    assert with_errors(dict(pair), [step * (-1) ** k - 0.3 for k, step in enumerate(steps)]) == []  # by chance
    assert with_errors(dict(pair), [0.1 * step for step in steps]) == []  # a hundredth of a voxel
    assert with_errors(dict(pair), [-step for step in steps]) == []  # better


def test_one_landmark_that_ends_farther_away(pair: dict[str, Any]) -> None:
    """The mean falls; a voxel is 4 mm."""
    assert with_errors(dict(pair), [9.0] * 9 + [-3.9]) == []
    (message,) = with_errors(dict(pair), [9.0] * 9 + [-4.1])
    assert "at the worst landmark farther from the fixed landmarks after registration than before" in message
    assert message.endswith("(mean 10.00 → 2.31 mm, maximum 10.00 → 14.10 mm)")


def test_a_mean_that_grows_by_half_a_voxel(pair: dict[str, Any]) -> None:
    """A tenth of 30 mm is no excuse."""
    assert with_errors(dict(pair), [-1.9, -1.9]) == []
    (message,) = with_errors(dict(pair), [-2.1, -2.1])
    assert message.endswith("(mean 10.00 → 12.10 mm, maximum 10.00 → 12.10 mm)")


def test_landmarks_within_half_a_voxel_are_good(pair: dict[str, Any]) -> None:
    """An image registered to itself cannot improve on the start."""
    points = (MIDDLE + 10 * torch.randn(20, 3, dtype=torch.float64)).float()
    pair["moving"] = pair["fixed"]
    pair |= {"fixed_landmarks": points, "moving_landmarks": points}
    assert warnings_of(pair, about_the_middle(shift=0.4)) == []


def test_an_image_registered_to_itself_is_good(pair: dict[str, Any]) -> None:
    """Interpolation takes a third of the mutual information of its ranks, and hardly any of its NCC."""
    smooth = gaussian_filter(pair["fixed"][0].numpy(), 1)
    same = MetaTensor(torch.from_numpy(smooth)[None], affine=GRID.affine)
    pair |= {"fixed": same, "moving": same}
    applied = EvaluatePaird()(ApplyTransformPaird(about_the_middle(shift=0.5))(pair))
    assert applied["metrics"]["similarity"]["ncc"]["after"] > 0.98
    assert applied.get("warnings", []) == []


def test_labels_that_overlap_less_than_before(pair: dict[str, Any]) -> None:
    label = torch.zeros(1, *SHAPE, dtype=torch.int32)
    label[0, 10:20, 10:20, 10:20] = 1
    pair |= {name: MetaTensor(label, affine=GRID.affine) for name in ("fixed_label", "moving_label")}
    pair["paths"] |= {"fixed_label": "a.nii.gz", "moving_label": "b.nii.gz"}
    messages = warnings_of(pair, RIGHT)
    assert "b.nii.gz: overlaps less after registration than before (mean Dice 1.000 → 0.800)" in messages


def test_a_network_in_training_is_not_warned_of(pair: dict[str, Any]) -> None:
    applied = ApplyTransformPaird(about_the_middle(shift=40.0))(pair)
    assert "warnings" not in EvaluatePaird(warnings=False)(applied)
    with pytest.raises(TypeError, match="warnings must be True or False"):
        EvaluatePaird(warnings="no")  # type: ignore[arg-type]
