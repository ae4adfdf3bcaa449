# SPDX-License-Identifier: Apache-2.0
"""Backward registration equals the forward one of the swapped images."""

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from torch import Tensor

from regplugins.report.summary import summary_row
from regplugins.spatial import AffineTransform, DisplacementField, Grid
from regplugins.transforms import ApplyDDFPaird, EvaluatePaird, SwapPaird
from tests.itk_truth import translation

SHAPE = (20, 18, 16)


def rotated(degrees: float, offset: tuple[float, float, float]) -> Tensor:
    """A voxel grid's affine of its own: turned about the third axis, 1.5 mm."""
    angle = math.radians(degrees)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix[:3, :3] *= 1.5
    matrix[:3, 3] = torch.tensor(offset)
    return matrix


@pytest.fixture
def pair() -> dict[str, object]:
    """Two images on grids of their own, a start that is not the identity, and a network's fields of both directions."""
    rng = np.random.default_rng(0)
    images = {
        key: MetaTensor(torch.from_numpy(gaussian_filter(rng.random(SHAPE), 2).astype(np.float32))[None], affine=affine)
        for key, affine in (("fixed", rotated(0, (0, 0, 0))), ("moving", rotated(20, (4, -3, 2))))
    }
    for key in ("fixed", "moving"):
        label = torch.from_numpy(rng.integers(0, 3, (1, *SHAPE)).astype(np.int32))
        images[f"{key}_label"] = MetaTensor(label, affine=images[key].affine)
        images[f"{key}_landmarks"] = Grid.from_image(images[key]).center + torch.from_numpy(rng.normal(size=(5, 3)))
    smooth = [gaussian_filter(rng.normal(size=(3, *SHAPE)), (0, 3, 3, 3)) for _ in range(2)]
    ddfs = torch.from_numpy(np.concatenate(smooth)).float()[None] * 20
    paths = {key: f"{key}.nii.gz" for key in images} | {"init": "start.mat"}
    return {
        **images,
        "name": "one",
        "paths": paths,
        "landmark_space": "RAS",
        "seconds": {},
        "grid": Grid.from_image(images["fixed"]),
        "initial": translation(2.0, 1.0, -1.5),
        "pred": ddfs,
    }


def test_the_swapped_pair_through_the_field_of_its_direction(pair):
    """A point of the moving image goes back through the start, then through the network's field."""
    backward = SwapPaird()(pair)["backward"]
    back = DisplacementField.from_ddf(pair["pred"][0, 3:], pair["grid"])
    points = pair["moving_landmarks"]
    expected = back(points - pair["initial"].matrix[:3, 3])
    torch.testing.assert_close(backward["warped_landmarks"], expected, atol=0.1, rtol=0)
    assert (expected - points).norm(dim=1).max() > 2
    assert backward["warped"].shape == (1, *SHAPE)
    assert backward["fixed"] is pair["moving"]
    assert backward["moving_label"] is pair["fixed_label"]
    assert backward["name"] == "one/backward"
    assert backward["paths"]["fixed"] == "moving.nii.gz"
    assert backward["paths"]["moving_landmarks"] == "fixed_landmarks.nii.gz"
    assert backward["paths"]["init"] == "start.mat"


def test_the_same_as_the_forward_way_of_swapped_images(pair):
    """With one field for both directions and no initial transform, backward equals forward of the swapped images."""
    pair["pred"] = torch.cat([pair["pred"][:, :3]] * 2, dim=1)
    pair["initial"] = AffineTransform.identity(3)
    for key in ("fixed", "moving", "fixed_label", "moving_label"):
        pair[key] = MetaTensor(pair[key].as_tensor(), affine=pair["grid"].affine)
    backward = SwapPaird([EvaluatePaird()])(pair)["backward"]
    swapped = {**pair, "fixed": pair["moving"], "moving": pair["fixed"]}
    swapped |= {"fixed_label": pair["moving_label"], "moving_label": pair["fixed_label"]}
    swapped |= {"fixed_landmarks": pair["moving_landmarks"], "moving_landmarks": pair["fixed_landmarks"]}
    forward = EvaluatePaird()(ApplyDDFPaird()(swapped))
    torch.testing.assert_close(backward["warped"], forward["warped"])
    assert torch.equal(backward["warped_label"], forward["warped_label"])
    theirs, ours = (summary_row(way["metrics"]) for way in (forward, backward))
    assert theirs["dice_mean_after"] < 0.5
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_how_far_the_two_fields_are_from_inverse(pair):
    """A shift and its inverse have no cycle error; a shift and the identity have that of the shift."""
    for back, error in ((-2.0, 0.0), (0.0, 3.0)):
        ddf = torch.zeros(1, 6, *SHAPE)
        ddf[:, 1], ddf[:, 4] = 2.0, back
        cycle_error = SwapPaird()({**pair, "pred": ddf})["cycle_error"]
        torch.testing.assert_close(cycle_error, torch.full_like(cycle_error, error), atol=1e-5, rtol=0)


def test_both_ways_are_judged_where_the_mask_is(pair):
    """A shift that grows along an axis, and nothing back: the error is the shift of the voxels of the mask."""
    ddf = torch.zeros(1, 6, *SHAPE)
    ddf[:, 1] = torch.linspace(0, 1, SHAPE[1]).view(1, -1, 1)
    mask = torch.zeros(1, *SHAPE)
    mask[:, 4:9, 6:8, 3:7] = 1
    pair["fixed_mask"] = MetaTensor(mask, affine=pair["fixed"].affine)
    inside = pair["grid"].world_to_index(Grid.from_image(pair["fixed"]).index_to_world(mask[0].nonzero().double()))
    expected = torch.sort(1.5 * inside[:, 1] / (SHAPE[1] - 1)).values
    cycle_error = torch.sort(SwapPaird()({**pair, "pred": ddf})["cycle_error"]).values
    torch.testing.assert_close(cycle_error.double(), expected, atol=1e-4, rtol=0)


def test_the_truth_of_the_other_direction_where_the_same_part_of_the_body_is(pair):
    """The truth is a shift; the network finds it in the one direction and nothing in the other."""
    grid = pair["grid"]
    ddf = torch.zeros(1, 6, *SHAPE)
    ddf[:, 0] = 2.0
    mask = torch.zeros(1, *SHAPE)
    mask[:, 6:12, 6:12, 6:10] = 1
    pair |= {"truth": translation(3.0, 0.0, 0.0), "pred": ddf, "initial": AffineTransform.identity(3)}
    pair |= {"fixed_mask": MetaTensor(mask, affine=grid.affine)}
    pair["moving"] = MetaTensor(pair["moving"].as_tensor(), affine=grid.affine)
    pair["moving_label"] = MetaTensor(pair["moving_label"].as_tensor(), affine=grid.affine)
    both = EvaluatePaird()(ApplyDDFPaird()(SwapPaird([EvaluatePaird()])(pair)))
    assert both["metrics"]["endpoint_error_mm"]["after"]["mean"] == pytest.approx(0, abs=1e-5)
    assert both["metrics"]["backward"]["endpoint_error_mm"]["after"]["mean"] == pytest.approx(3)
    assert both["metrics"]["cycle_consistency_mm"]["mean"] == pytest.approx(3)
    seen = both["backward"]["fixed_mask"].as_tensor()
    assert torch.equal(seen, torch.roll(mask, 2, dims=1))


def test_options_reach_the_images(pair):
    far = torch.zeros(1, 6, *SHAPE)
    far[:, 3] = 5.0
    warped = SwapPaird(fill=-1024.0)({**pair, "pred": far})["backward"]["warped"]
    assert warped.min() == -1024
    with pytest.raises(ValueError, match="interpolation must be"):
        SwapPaird(interpolation="cubic")(pair)


def test_what_was_chosen_holds_for_both_directions(pair):
    chosen = {"init": "affine"}
    assert SwapPaird()({**pair, "chosen": chosen})["backward"]["chosen"] == chosen
