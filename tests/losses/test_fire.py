# SPDX-License-Identifier: Apache-2.0
"""Terms of FIRE's objective in closed cases."""

import math

import pytest
import torch
from torch import Tensor

from regplugins.losses import FireLoss
from regplugins.losses.fire import TERMS
from regplugins.spatial import compose_ddf, warp

IMAGES = ("image", "warped", "affine", "cycled", "restored", "synthesized", "synthesized_warped", "synthesized_affine")
IMAGES += ("registered", "registered_affine")
FEATURES = ("features", "features_warped", "features_affine", "features_synthesized")


def alike(value: float = 0.5) -> dict[str, Tensor]:
    """Outputs of a perfect network for identical images: equal images and features, no displacement."""
    image, features = torch.full((1, 1, 8, 8), value), torch.full((1, 3, 2, 2), value)
    fields = {f"{name}_{side}": image for name in IMAGES for side in "ab"}
    fields |= {f"{name}_{side}": features for name in FEATURES for side in "ab"}
    return fields | {f"nonrigid_{way}": torch.zeros(1, 2, 4, 4) for way in ("ab", "ba")}


# What each term compares, by direction: changing it by d makes the term d.
PARTS = {
    "synthesis_accuracy": ("synthesized_warped_a", "synthesized_warped_b"),
    "synthesis_feature": ("features_warped_a", "features_warped_b"),
    "synthesis_cycle": ("restored_a", "restored_b"),
    "synthesis_alignment": ("features_synthesized_a", "features_synthesized_b"),
    "registration_accuracy": ("registered_a", "registered_b"),
    "inverse_consistency": ("cycled_a", "cycled_b"),
    "affine_synthesis": ("synthesized_affine_a", "synthesized_affine_b"),
    "affine_registration": ("registered_affine_a", "registered_affine_b"),
}


def test_all_terms_vanish_for_a_perfect_network():
    terms = FireLoss().terms(alike())
    assert tuple(terms) == TERMS and set(TERMS) == {*PARTS, "smoothness"}
    for name, value in terms.items():
        assert float(value) == pytest.approx(0, abs=1e-5), name


@pytest.mark.parametrize(("term", "part"), [(term, part) for term, parts in PARTS.items() for part in parts])
def test_each_part_of_each_term_is_a_root_of_a_mean_square(term, part):
    fields = alike()
    fields[part] = fields[part] + torch.tensor([0.3, -0.4]).repeat(fields[part].shape[-1] // 2)
    terms = FireLoss().terms(fields)
    for name, value in terms.items():
        expected = math.sqrt((0.09 + 0.16) / 2) if name == term else 0
        assert float(value) == pytest.approx(expected, abs=1e-5), name


def test_features_are_compared_with_the_warped_ones_of_the_other_image():
    """RMS(G(A), G(B)∘φ_BA) + RMS(G(B), G(A)∘φ_AB)."""
    fields = alike()
    fields["features_a"] = fields["features_a"] + 1
    fields["features_warped_b"] = fields["features_warped_b"] + 1
    assert float(FireLoss().terms(fields)["synthesis_feature"]) == pytest.approx(0, abs=1e-5)


def test_smoothness_is_the_mean_squared_laplacian_of_both_fields():
    fields = alike()
    squares = torch.arange(6.0).square()
    for way, factor in (("ab", 1.0), ("ba", 3.0)):
        field = torch.zeros(1, 2, 6, 6)
        field[0, 1] = factor * squares.view(6, 1)  # its second difference is 2 everywhere
        fields[f"nonrigid_{way}"] = field
    assert float(FireLoss().terms(fields)["smoothness"]) == pytest.approx(4 * 1 + 4 * 9)


def test_the_total_weighs_the_terms():
    torch.manual_seed(0)
    fields = {name: value + torch.rand_like(value) for name, value in alike().items()}
    terms = FireLoss().terms(fields)
    plain = sum(float(value) for name, value in terms.items() if name != "smoothness")
    assert float(FireLoss()(fields, {})) == pytest.approx(plain + 0.1 * float(terms["smoothness"]))
    weights = {"synthesis_cycle": 3.0, "inverse_consistency": 0.0, "smoothness": 2.0}
    expected = plain + 2 * float(terms["synthesis_cycle"]) - float(terms["inverse_consistency"])
    assert float(FireLoss(weights)(fields, {})) == pytest.approx(expected + 2 * float(terms["smoothness"]))


def test_distances_are_from_the_known_warp_and_its_inverse():
    """A shift, which the pair of unknown warp must not hide."""
    truth = torch.zeros(2, 2, 8, 8)
    truth[0, 0] = 2.0
    truth[1] = torch.nan
    exact = {f"{name}_ab": truth.nan_to_num() for name in ("ddf", "affine_ddf")}
    exact |= {name.replace("ab", "ba"): -field for name, field in exact.items()}
    loss = FireLoss(dict.fromkeys(TERMS, 0.0), truth_weight=0.5)
    assert float(loss(exact, {"truth": truth})) == 0
    for name in exact:
        away = exact | {name: exact[name] + torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)}
        assert float(loss(away, {"truth": truth})) == pytest.approx(0.5 * 5 / 2)
    assert float(loss(exact, {"truth": torch.full_like(truth, torch.nan)})) == 0


def test_exact_inverses_are_consistent():
    """A shift by whole voxels and its inverse, away from the border."""
    torch.manual_seed(0)
    image, there = torch.rand(1, 1, 16, 16), torch.zeros(1, 2, 16, 16)
    there[:, 0] = 2.0
    fields = alike() | {"image_a": image, "image_b": image}
    inner = (..., slice(4, -4), slice(4, -4))
    for way, error in ((-there, 0.0), (there, None)):
        cycled = warp(image, compose_ddf(there, way))
        fields |= {
            f"{name}_{side}": value[inner] for side in "ab" for name, value in (("image", image), ("cycled", cycled))
        }
        value = float(FireLoss().terms(fields)["inverse_consistency"])
        assert value == pytest.approx(error, abs=1e-5) if error is not None else value > 0.1


def test_unknown_term():
    with pytest.raises(ValueError, match=r"unknown terms \['cycle'\], expected some of"):
        FireLoss({"cycle": 1.0})
