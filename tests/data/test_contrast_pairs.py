# SPDX-License-Identifier: Apache-2.0
"""Pairs in random contrasts: their kinds, subjects and sequences, and the fields of those that are warped."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import Compose, RandFlipd, RandGaussianNoise
from torch import Tensor

from regplugins.data import ContrastPairDataset, RandContrast, RandLabelContrast, RandomWarp, RandRemap
from regplugins.data.contrast import FLUID, GRAY, STRUCTURE, UNKNOWN, WHITE
from regplugins.data.contrast_pairs import BETWEEN, IDENTITY, KINDS, WARPED
from regplugins.spatial import warp
from regplugins.transforms import RandPatchPaird, RandSlicePaird, RandWarpPaird

SHARES = {"identity": 0.18, "warped": 0.47, "between": 0.35}
SHAPE = (22, 26, 20)


def records() -> list[dict[str, str]]:
    """Two people with two sequences, one of them and a third with labels, and two shapes of families of their own."""
    found = [
        {"image": f"{subject}_{sequence}", "subject": subject, "sequence": sequence, "family": "brain"}
        for subject in ("anna", "bela")
        for sequence in ("t1", "flair")
    ]
    for subject, family in (("anna", "brain"), ("carl", "brain"), ("disk", "disk"), ("ring", "ring")):
        path = f"{subject}_labels"
        found.append({"label_map": path, "subject": subject, "sequence": "labels", "family": family})
    return found


def ball(radius: float) -> Tensor:
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return (sum(axis**2 for axis in axes).sqrt() < radius)[None]


def load(record: dict[str, str]) -> dict[str, Tensor]:
    """Balls with two thirds of their radius in another tissue, of a radius that tells the subject."""
    radius = 0.6 + 0.08 * "abcdr".index(record["subject"][0])
    if "label_map" in record:
        labels = torch.zeros(1, *SHAPE, dtype=torch.int32)
        labels[ball(radius)], labels[ball(radius * 2 / 3)] = GRAY, STRUCTURE * 5 + WHITE
        return {"label_map": labels}
    values = {"t1": (0.5, 1.0), "flair": (1.0, 0.3)}[record["sequence"]]
    image = torch.zeros(1, *SHAPE)
    image[ball(radius)], image[ball(radius * 2 / 3)] = values
    return {"image": image}


def plain(sequences: list[str] | None = None) -> RandContrast:
    """Contrast without noise, which leaves images as they are."""
    return RandContrast(RandLabelContrast(texture=0.0, blur=(0, 0)), RandRemap(0.0), sequences=sequences)


def dataset(shares: dict[str, float] | str = "all", contrast: RandContrast | None = None, **options):
    if isinstance(shares, str):
        shares = SHARES if shares == "all" else {kind: float(kind == shares) for kind in KINDS}
    both = contrast or plain()
    contrasts = options.pop("contrasts", {"fixed": both, "moving": both})
    return ContrastPairDataset(options.pop("data", records()), load, contrasts, shares, **options)


def warper(**options) -> RandWarpPaird:
    between = RandomWarp(6.0, (20.0, 30.0), rotation=3.0, translation=1.0, scaling=0.02)
    return RandWarpPaird(2.0, RandomWarp(4.0, (20.0, 30.0), rotation=4.0, translation=1.0), between, **options)


class Noted(RandContrast):
    """Returns what it is asked to show."""

    def __call__(self, source):
        return source.get("image", source.get("label_map")).float()


def test_shares_of_the_kinds():
    pairs = dataset()
    kinds = [int(pairs[index]["kind"]) for index in range(400)]
    for number, kind in enumerate(KINDS):
        share = SHARES[kind]
        assert abs(kinds.count(number) / 400 - share) < 3.3 * (share * (1 - share) / 400) ** 0.5, kind


def test_items_depend_on_seed_and_index_alone():
    contrast = RandContrast(RandLabelContrast(), RandRemap(), Compose([RandGaussianNoise(prob=1.0)]))
    first, again, other = (
        dataset(contrast=contrast, pair_augmentation=warper(), seed=seed, paired=True) for seed in (1, 1, 2)
    )
    for index in (0, 3, 40):
        _ = first[7]
        one, same, another = first[index], again[index], other[index]
        assert one.keys() == same.keys()
        for key, value in one.items():
            assert type(value) is Tensor
            torch.testing.assert_close(value, same[key], rtol=0, atol=0, equal_nan=True)
        assert not torch.equal(one["fixed"], another["fixed"])
    assert not torch.equal(first[0]["fixed"], first[len(first)]["fixed"])


def test_one_subject_or_two_of_a_family():
    noted = Noted(RandLabelContrast(), RandRemap())
    for kind in KINDS:
        pairs = dataset(kind, noted)
        for index in range(40):
            sizes = {int((pairs[index][side] > 0).sum()) for side in ("fixed", "moving")}
            assert len(sizes) == (2 if kind == "between" else 1)
            if kind == "between":  # the balls of the other families are larger
                assert max(sizes) <= int(ball(0.6 + 0.16).sum())


def test_two_sequences_or_one_label_map_in_two_contrasts():
    noted = Noted(RandLabelContrast(), RandRemap())
    pairs = dataset("identity", noted)
    for index in range(60):
        fixed, moving = pairs[index]["fixed"], pairs[index]["moving"]
        if not torch.equal(fixed, moving):
            continue
        assert float(fixed.max()) == STRUCTURE * 5 + WHITE, "a sequence is paired with itself"
    rendered = dataset("identity", data=[record for record in records() if record["subject"] == "disk"])
    assert not torch.equal(rendered[0]["fixed"], rendered[0]["moving"])


def test_the_only_sequence_of_a_subject_is_shown_twice():
    pairs = dataset("identity", data=records()[:1])
    assert torch.equal(pairs[0]["fixed"], pairs[0]["moving"])


def test_sequences_of_a_side():
    noted = {
        "fixed": Noted(RandLabelContrast(), RandRemap(), sequences=["flair"]),
        "moving": Noted(RandLabelContrast(), RandRemap(), sequences=["t1", "labels"]),
    }
    pairs = dataset("between", contrasts=noted)
    for index in range(30):
        inner = [float(pairs[index][side][ball(0.2)].unique()) for side in ("fixed", "moving")]
        assert inner[0] == pytest.approx(0.3) and inner[1] in (1.0, STRUCTURE * 5 + WHITE)


def test_families_by_their_weights():
    noted = Noted(RandLabelContrast(), RandRemap())
    pairs = dataset("warped", noted, families={"brain": 8.0})
    sizes = [int((pairs[index]["fixed"] > 0).sum()) for index in range(400)]
    brains = sum(size <= int(ball(0.6 + 0.16).sum()) for size in sizes) / 400
    assert abs(brains - 0.8) < 3.3 * (0.8 * 0.2 / 400) ** 0.5


@pytest.mark.parametrize("kind", ["identity", "warped"])
def test_the_truth_warps_the_moving_image_to_the_fixed_one(kind):
    """Both images of a subject without a change of contrast differ by the interpolations alone."""
    same = {side: plain(["t1"]) for side in ("fixed", "moving")}
    pairs = dataset(kind, contrasts=same, pair_augmentation=warper())
    for index in range(6):
        item = pairs[index]
        assert item["truth"].shape == (3, *SHAPE)
        assert_truth_aligns(item, "moving", "fixed")
        if kind == "identity":
            assert not item["truth"].any()
            assert torch.equal(item["fixed"], item["moving"])
        else:
            assert item["truth"].abs().max() > 0


def assert_truth_aligns(item: dict[str, Tensor], moving: str, fixed: str) -> None:
    """Check that the truth warps the moving image to the fixed one, apart from interpolation at edges."""
    left = float((warp(item[moving][None], item["truth"][None])[0] - item[fixed]).abs().mean())
    assert left < 0.04
    if float(item["truth"].norm(dim=0).mean()) > 0.7:
        assert left < 0.6 * float((item[moving] - item[fixed]).abs().mean())


def test_two_people_have_no_truth():
    item = dataset("between", pair_augmentation=warper())[0]
    assert item["truth"].isnan().all()
    assert int(item["kind"]) == BETWEEN


def test_quadruples_are_aligned_and_share_the_contrasts():
    """The truth warps the moving images to the fixed ones of their contrast."""
    for kind in (IDENTITY, WARPED):
        pairs = dataset(KINDS[kind], paired=True, pair_augmentation=warper())
        for index in range(8):
            item = pairs[index]
            assert_truth_aligns(item, "moving", "fixed_paired")
            assert_truth_aligns(item, "moving_paired", "fixed")


def test_quadruples_of_two_people_show_what_both_have():
    pairs = dataset("between", paired=True)
    middle = ball(0.2)
    for index in range(30):
        item = pairs[index]
        values = {key: float(item[key][middle].mean()) for key in item if key != "kind"}
        # The middle is the same tissue in all, so its value tells the contrast.
        assert values["fixed"] == pytest.approx(values["moving_paired"], abs=1e-6)
        assert values["moving"] == pytest.approx(values["fixed_paired"], abs=1e-6)
        sizes = {key: int((item[key] > 0).sum()) for key in ("fixed", "fixed_paired", "moving", "moving_paired")}
        assert sizes["fixed"] == sizes["fixed_paired"] != sizes["moving"] == sizes["moving_paired"]


def test_slices_patches_and_flips_keep_the_kind():
    steps = [RandFlipd(["moving", "fixed"], prob=0.5), RandSlicePaird(), warper()]
    item = dataset("warped", pair_augmentation=Compose(steps))[0]
    assert item["fixed"].shape == (1, *SHAPE[:2]) and item["truth"].shape == (2, *SHAPE[:2])
    item = dataset("warped", pair_augmentation=Compose([warper(), RandPatchPaird((12, 12, 12))]))[0]
    assert item["fixed"].shape == (1, 12, 12, 12) and item["truth"].shape == (3, 12, 12, 12)
    assert int(item["kind"]) == WARPED


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"identity": 1.0}, "shares must be numbers of at least 0 for"),
        ({"identity": 1.0, "warped": 1.0, "between": -1.0}, "shares must be numbers of at least 0 for"),
        (dict.fromkeys(KINDS, 0.0), "not all 0"),
    ],
)
def test_bad_shares(shares, message):
    with pytest.raises(ValueError, match=message):
        dataset(shares)


def test_a_second_image_of_a_sequence_is_named():
    twice = [*records(), {**records()[1], "image": "anna_flair_again"}]
    with pytest.raises(ValueError, match=r"^anna_flair_again: anna has two images of flair$"):
        dataset(data=twice)


def test_a_record_without_its_subject_is_named():
    odd = {"sequence": "flair", "image": "odd.nii.gz"}
    with pytest.raises(ValueError, match=r"^odd\.nii\.gz: its record has no subject or no sequence$"):
        dataset(data=[*records(), odd])


def test_a_kind_without_pairs_is_named():
    with pytest.raises(ValueError, match=r"no pair of the kind 'between' can be made of 2 images .*fixed: any"):
        dataset(data=records()[:2])


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="no images to train on"):
        dataset(data=[])


def test_unknown_tissues_and_fluid_are_rendered():
    """Labels of every tissue number stay in the tables."""
    labels = torch.tensor([FLUID, STRUCTURE * 255 + UNKNOWN], dtype=torch.int32).view(1, 2, 1).expand(1, 2, 2)
    assert RandLabelContrast(blur=(0, 0))(labels).shape == (1, 2, 2)
