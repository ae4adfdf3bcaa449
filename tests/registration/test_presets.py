# SPDX-License-Identifier: Apache-2.0
"""Presets of the optimization: what they hold, which one a pair gets, and what replaces their settings."""

import re

import PIL.Image
import pytest
import torch

from regplugins.io import load_image
from regplugins.losses import LocalNCCLoss, NCCLoss, SquaredLaplacianLoss
from regplugins.registration import BSplineField, ConvexInitializer, PresetRegistration
from tests.registration.pairs import textured, warped_pair

AIR, TISSUE = -1000.0, 40.0
MR, CT = torch.tensor([0.0, 300.0]), torch.tensor([AIR, TISSUE])


def scaled_pair() -> torch.Tensor:
    pair, _ = warped_pair(33, 36)
    return (pair - pair.min()) / (pair.max() - pair.min())


@pytest.mark.parametrize(
    ("scans", "preset"), [((CT, CT), "same_modality"), ((CT, MR), "multimodal"), ((MR, CT), "multimodal")]
)
def test_a_ct_is_known_by_its_air(scans, preset):
    pair = scaled_pair()[0]
    turned = torch.stack([1 - pair[0], pair[1]])
    name, statistics = PresetRegistration().choose(turned, scans)
    assert (name, statistics["ct_images"]) == (preset, sum(scan is CT for scan in scans))


def test_a_ct_without_air_is_compared():
    """A CT is of one modality with itself, shifted to positive numbers."""
    assert PresetRegistration().choose(scaled_pair()[0], (CT, CT + 1024))[0] == "same_modality"


def test_other_scans_by_their_intensities(caplog):
    pair = scaled_pair()
    turned = torch.stack([1 - pair[0, 0], pair[0, 1]])
    with caplog.at_level("INFO", logger="regplugins"):
        assert PresetRegistration().choose(pair[0], (MR, MR))[0] == "same_modality"
        preset, statistics = PresetRegistration().choose(turned, (MR, MR))
    assert preset == "multimodal"
    assert statistics["linearity"] < 0
    assert [line.split(":")[0] for line in caplog.messages] == ["preset same_modality", "preset multimodal"]
    assert PresetRegistration("ct_mr").choose(pair[0], (MR, MR)) == ("ct_mr", {})


def test_photographs_of_two_stains_are_of_one_modality(tmp_path):
    """A stain that leaves bright tissue alike maps intensities monotonically, but not linearly."""
    fixed = scaled_pair()[0, 1]
    stained = torch.stack([fixed.clamp(max=0.6), fixed])
    for name, values in zip(("moving", "fixed"), stained, strict=True):
        PIL.Image.fromarray((255 * values).byte().numpy()).save(tmp_path / f"{name}.png")
    scans = [load_image(tmp_path / f"{name}.png") for name in ("moving", "fixed")]
    choose = PresetRegistration().choose
    name, statistics = choose(stained, scans)
    assert 0.5 < statistics["linearity"] < 0.87
    assert (name, statistics["photographs"]) == ("same_modality", 2)
    assert choose(stained, (scans[0], MR))[0] == "multimodal"
    assert choose(torch.stack([1 - fixed, fixed]), scans)[0] == "multimodal"


def test_the_chosen_preset_is_the_named_one():
    pair = scaled_pair()
    for name in ("same_modality", "multimodal"):
        fields = PresetRegistration()(pair, chosen={"preset": name}), PresetRegistration(name)(pair)
        assert torch.equal(*fields)
    with pytest.raises(ValueError, match=r"preset must be one of .*, got 'auto'"):
        PresetRegistration()(pair)


@pytest.mark.parametrize(("shift", "kept"), [((1, 0), 0), ((-7, 5), 1)])
def test_the_initializer_that_was_kept_is_named_and_gives_the_same(shift, kept):
    moving = textured(72, 68)
    pair = torch.cat([moving, moving.roll(shift, (2, 3))], dim=1)
    starts = [lambda images: torch.zeros(1, 2, 72, 68), ConvexInitializer(reach=9.0, image_spacing=1.0)]
    changes = {"spacing": 1.0, "levels": [(2.0, 40), (1.0, 5)]}
    chosen = {"preset": "same_modality"}
    found = PresetRegistration(initializer=starts, **changes)(pair, chosen=chosen)
    assert chosen["initializer"] == str(starts[kept])
    assert torch.equal(found, PresetRegistration("same_modality", initializer=starts[kept], **changes)(pair))


@pytest.mark.parametrize("name", ["same_modality", "multimodal", "ct_mr", "large_deformation"])
def test_what_is_given_replaces_what_any_preset_has(name):
    changes = {"levels": [[8.0, 3]], "similarity": [LocalNCCLoss(7), NCCLoss()], "similarity_weights": [1.0, 0.5]}
    settings = PresetRegistration(name, regularization_weight=0.7, initializer="none", step=0.1, **changes).settings(
        name
    )
    own = PresetRegistration(name).settings(name)
    assert (settings["levels"], settings["similarity_weights"]) == ([[8.0, 3]], [1.0, 0.5])
    assert "LocalNCCLoss(kernel_size=7" in settings["similarity"] and "NCCLoss()" in settings["similarity"]
    assert (settings["regularization_weight"], settings["initializer"]) == (0.7, None)
    assert settings["parametrization"] == re.sub(r"step=[\d.]+", "step=0.1", own["parametrization"])
    assert settings["regularization"] == own["regularization"]
    spline = PresetRegistration(name, parametrization=BSplineField(4)).settings(name)
    assert spline["parametrization"] == "BSplineField(smoothing=0.0, step=0.15, distance=4)"
    assert spline["levels"] == own["levels"]


@pytest.mark.parametrize(
    ("changes", "weight"),
    [
        ({}, 0.0),
        ({"step": 0.3, "parametrization": None}, 0.0),
        ({"parametrization": BSplineField(4)}, 0.15),
        ({"regularization": SquaredLaplacianLoss()}, 0.15),
        ({"parametrization": BSplineField(4), "regularization_weight": 0.0}, 0.0),
    ],
)
def test_only_its_own_field_goes_without_a_penalty(changes, weight):
    assert PresetRegistration("same_modality", **changes).settings("same_modality")["regularization_weight"] == weight


@pytest.mark.parametrize("preset", ["same_modality", "multimodal"])
def test_small_anatomy_is_registered_as_large_one(preset):
    """Whatever the spacing is, given or automatic, the displacements in voxels are the same."""
    pair = scaled_pair()
    automatic, large, small = (PresetRegistration(preset, spacing)(pair) for spacing in (None, 3.0, [0.2, 0.1]))
    torch.testing.assert_close(large, automatic)
    torch.testing.assert_close(small, automatic)
    assert automatic.abs().max() > 0.5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"preset": "best"}, ValueError, "preset must be one of .*'auto'.*'same_modality'.*, got 'best'"),
        ({"initializer": "null"}, ValueError, "initializer must be .* or \"none\", got 'null'"),
        ({"smoothing": 1.0, "parametrization": BSplineField()}, ValueError, "within the parametrization"),
        ({"speed": 3}, TypeError, "speed"),
    ],
)
def test_bad_values_are_named(options, error, message):
    with pytest.raises(error, match=message):
        PresetRegistration(**options)
