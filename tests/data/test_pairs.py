# SPDX-License-Identifier: Apache-2.0
"""Ordered pairs: all of them, each once, the same again for the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import RandAffined, Randomizable

from regplugins.data import (
    ClassDataset,
    PairDataset,
    PairSampler,
    balanced,
    multimodal_pairs,
    paired_modalities,
    sequence_pairs,
    spread,
)


def images(n: int) -> list[dict[str, float]]:
    return [{"value": float(k)} for k in range(n)]


def as_tensors(record: dict[str, float]) -> dict[str, torch.Tensor]:
    image = torch.zeros(1, 6, 7)
    image[0, 2:4, 3:5] = 1 + record["value"]
    return {"image": image, "label": (image > 0).float()}


def test_all_ordered_pairs_each_once():
    dataset = PairDataset(images(4), as_tensors)
    pairs = [
        (float(item["fixed"].max()) - 1, float(item["moving"].max()) - 1)
        for item in (dataset[k] for k in range(len(dataset)))
    ]
    assert sorted(pairs) == [(float(f), float(m)) for f in range(4) for m in range(4)]
    assert set(dataset[0]) == {"fixed", "moving", "fixed_label", "moving_label"}


def test_each_image_is_read_once():
    calls: list[float] = []

    def counting(record):
        calls.append(record["value"])
        return as_tensors(record)

    dataset = PairDataset(images(5), counting)
    for k in range(len(dataset)):
        dataset[k]
    assert sorted(calls) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        PairDataset([], as_tensors)


def augmented(seed: int = 0) -> PairDataset:
    augmentation = RandAffined(["image", "label"], prob=1.0, rotate_range=1.0, translate_range=2.0)
    return PairDataset(images(3), as_tensors, augmentation, seed=seed)


def test_augmentation_depends_on_seed_and_index_alone():
    dataset, again, other = augmented(), augmented(), augmented(seed=1)
    for index in (5, 0, 7):
        assert torch.equal(dataset[index]["fixed"], again[index]["fixed"])
        assert not torch.equal(dataset[index]["fixed"], other[index]["fixed"])
    # The same pair in a later turn, the same image on both sides of a pair: other draws.
    assert not torch.equal(dataset[4]["fixed"], dataset[4 + 9]["fixed"])
    assert not torch.equal(dataset[4]["fixed"], dataset[4]["moving"])


def test_augmentation_moves_image_and_label_together():
    item = augmented()[1]
    overlap = (item["fixed"] > 0.5) == (item["fixed_label"] > 0.5)
    assert overlap.float().mean() > 0.95


def draws(sampler: PairSampler, epochs: int) -> list[list[int]]:
    result = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        result.append(list(sampler))
        assert len(result[-1]) == len(sampler)
    return result


def flat(epochs: list[list[int]]) -> list[int]:
    return [draw for epoch in epochs for draw in epoch]


def test_every_pair_before_any_again():
    dataset = PairDataset(images(4), as_tensors)
    epochs = draws(PairSampler(dataset, 4, seed=3), 8)
    first, second = flat(epochs[:4]), flat(epochs[4:])
    assert sorted(first) == list(range(16))
    assert sorted(second) == list(range(16, 32))
    assert [k - 16 for k in second] != first


def test_an_epoch_across_two_turns():
    dataset = PairDataset(images(2), as_tensors)
    all_draws = flat(draws(PairSampler(dataset, 3), 4))
    assert [sorted(all_draws[k : k + 4]) for k in (0, 4, 8)] == [list(range(k, k + 4)) for k in (0, 4, 8)]


def test_same_seed_same_order_whatever_was_drawn_before():
    dataset = PairDataset(images(4), as_tensors)
    whole = draws(PairSampler(dataset, 5, seed=1), 3)
    resumed = PairSampler(dataset, 5, seed=1)
    resumed.set_epoch(2)
    assert list(resumed) == whole[2]
    assert draws(PairSampler(dataset, 5, seed=2), 1)[0] != whole[0]


RECORDS = [
    {"image": "a1", "subject": "a", "sequence": "t1"},
    {"image": "a2", "subject": "a", "sequence": "t2"},
    {"image": "b1", "subject": "b", "sequence": "t1"},
    {"image": "c2", "subject": "c", "sequence": "t2"},
]


def test_multimodal_pairs_are_of_different_sequences_in_either_order():
    found = sorted(multimodal_pairs(RECORDS))
    # a1 or b1 with a2 or c2; never two T1s or two T2s.
    assert found == [(0, 1), (0, 3), (1, 0), (1, 2), (2, 1), (2, 3), (3, 0), (3, 2)]
    assert multimodal_pairs(RECORDS) == multimodal_pairs(RECORDS)


@pytest.mark.parametrize("within", [0, 1, 4])
def test_pairs_of_one_subject_are_listed_so_many_times(within):
    found = multimodal_pairs(RECORDS, within)
    for fixed in range(4):
        for moving in range(4):
            differ = RECORDS[fixed]["sequence"] != RECORDS[moving]["sequence"]
            same = RECORDS[fixed]["subject"] == RECORDS[moving]["subject"]
            assert found.count((fixed, moving)) == differ * (within if same else 1)


@pytest.mark.parametrize("key", ["subject", "sequence"])
def test_a_record_that_lacks_a_key_is_named(key):
    records = [*RECORDS, {k: v for k, v in RECORDS[0].items() if k != key} | {"image": "odd.nii.gz"}]
    with pytest.raises(ValueError, match=r"odd\.nii\.gz: .*no subject or no sequence"):
        multimodal_pairs(records)


@pytest.mark.parametrize("records", [[], RECORDS[:1], [RECORDS[0], RECORDS[2]]])
def test_without_two_sequences_there_is_no_pair(records):
    with pytest.raises(ValueError, match="different sequences"):
        multimodal_pairs(records)


def test_given_pairs_are_the_items():
    pairs = [(2, 0), (1, 3), (2, 0)]
    dataset = PairDataset(images(4), as_tensors, pairs=pairs)
    assert len(dataset) == 3
    for index in range(2 * len(pairs)):  # and so on with the same pairs
        item = dataset[index]
        assert (float(item["fixed"].max()) - 1, float(item["moving"].max()) - 1) == pairs[index % 3]
    assert sorted(flat(draws(PairSampler(dataset, 3), 2))) == list(range(6))


def pairwise_augmented(seed: int = 0, **more: Any) -> PairDataset:
    augmentation = RandAffined(["moving", "fixed"], prob=1.0, rotate_range=1.0, translate_range=2.0)
    return PairDataset(images(3), as_tensors, pair_augmentation=augmentation, seed=seed, **more)


def test_pair_augmentation_moves_both_images_alike():
    dataset, plain = pairwise_augmented(), PairDataset(images(3), as_tensors)
    item = dataset[1]  # fixed image 0, moving image 1, twice as bright
    torch.testing.assert_close(item["moving"], 2 * item["fixed"])
    assert not torch.allclose(item["fixed"], plain[1]["fixed"])
    assert torch.equal(item["fixed_label"], plain[1]["fixed_label"])  # it was not asked for


def test_pair_augmentation_depends_on_seed_and_index_alone():
    dataset, again, other = pairwise_augmented(), pairwise_augmented(), pairwise_augmented(seed=1)
    for index in (5, 0, 7):
        assert torch.equal(dataset[index]["fixed"], again[index]["fixed"])
        assert not torch.equal(dataset[index]["fixed"], other[index]["fixed"])
    assert not torch.equal(dataset[4]["fixed"], dataset[4 + 9]["fixed"])
    twice = pairwise_augmented(pairs=[(0, 1), (0, 1)])
    assert not torch.equal(twice[0]["fixed"], twice[1]["fixed"])


def test_pair_augmentation_draws_apart_from_those_of_the_images():
    """Three draws an item: were two of them one, the same random numbers would move image and pair."""

    class Noted(Randomizable):
        def __init__(self) -> None:
            self.draws: list[float] = []

        def __call__(self, values: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
            self.draws.append(float(self.R.uniform()))
            return values

    noted = Noted()
    dataset = PairDataset(images(2), as_tensors, noted, noted, seed=3)
    for index in range(5):
        dataset[index]
    assert len(noted.draws) == len(set(noted.draws)) == 15


@pytest.mark.parametrize("augmentation", [None, RandAffined(["image"], prob=1.0, rotate_range=1.0)])
def test_items_are_plain_tensors(augmentation):
    def as_meta_tensors(record):
        return {key: MetaTensor(value) for key, value in as_tensors(record).items()}

    dataset = PairDataset(images(2), as_meta_tensors, augmentation)
    assert {type(value) for value in dataset[1].values()} == {torch.Tensor}
    assert set(dataset[1]) == {"fixed", "moving", "fixed_label", "moving_label"}


SUBJECTS = [("a", "ct"), ("a", "mr"), ("b", "mr"), ("b", "ct"), ("c", "mr"), ("c", "pet"), ("d", "ct")]


def test_paired_modalities_hold_both_sides_partners():
    records = [{"subject": subject, "sequence": sequence} for subject, sequence in SUBJECTS]
    quadruples = paired_modalities(records, within=3)
    for fixed, moving, fixed_paired, moving_paired in quadruples:
        assert records[fixed]["subject"] == records[fixed_paired]["subject"]
        assert records[moving]["subject"] == records[moving_paired]["subject"]
        assert records[fixed]["sequence"] == records[moving_paired]["sequence"]
        assert records[moving]["sequence"] == records[fixed_paired]["sequence"]
        assert records[fixed]["sequence"] != records[moving]["sequence"]
    # a and b share two sequences, both ways, each way in two orders; within a, b and c two orders, three times
    between = [(0, 2, 1, 3), (1, 3, 0, 2), (2, 0, 3, 1), (3, 1, 2, 0)]
    within = [(0, 1, 1, 0), (1, 0, 0, 1), (2, 3, 3, 2), (3, 2, 2, 3), (4, 5, 5, 4), (5, 4, 4, 5)]
    assert sorted(quadruples) == sorted(between + 3 * within)


def test_paired_modalities_in_one_direction():
    records = [{"subject": subject, "sequence": sequence} for subject, sequence in SUBJECTS]
    every = paired_modalities(records)
    assert paired_modalities(records, fixed="ct", moving="mr") == [
        quadruple for quadruple in every if records[quadruple[0]]["sequence"] == "ct"
    ]
    assert paired_modalities(records, moving="pet") == [(4, 5, 5, 4)]
    with pytest.raises(ValueError, match=r"no subject with two sequences \(fixed: ct, moving: pet\) among"):
        paired_modalities(records, fixed="ct", moving="pet")


def test_a_patient_in_two_shapes():
    """The paper's pairs: fixed image as it is, moving image as it is, of one patient."""
    states = [("p", "p"), ("p_moving", "p"), ("q", "q")]
    records = [{"subject": s, "patient": p, "sequence": m} for s, p in states for m in ("ct", "mr")]
    own = paired_modalities(records, 2, "ct", "mr", between_patients=False)
    as_scanned = (0, 3, 1, 2)  # ct of p, mr of p_moving; mr of p, ct of p_moving
    assert own.count(as_scanned) == 2
    assert {records[fixed]["patient"] == records[moving]["patient"] for fixed, moving, *_ in own} == {True}
    every = paired_modalities(records, 2, "ct", "mr")
    assert sorted(pair for pair in every if pair not in own) == [(0, 5, 1, 4), (2, 5, 3, 4), (4, 1, 5, 0), (4, 3, 5, 2)]
    with pytest.raises(TypeError, match="between_patients"):
        paired_modalities(records, between_patients="no")


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 5]), (5, [0, 2, 4, 6, 8]), (10, list(range(10)))])
def test_spread_takes_of_everywhere(count, expected):
    assert spread([(k, k) for k in range(10)], count) == [(k, k) for k in expected]


def test_spread_of_few_takes_all_alike():
    found = spread([(0, 1), (1, 0), (2, 0)], 9)
    assert sorted(found) == sorted([(0, 1), (1, 0), (2, 0)] * 3)
    with pytest.raises(ValueError, match="expected one pair or more, got 0"):
        spread([(0, 1)], 0)


def test_sequence_pairs_are_of_one_subject():
    records = [{"subject": subject, "sequence": sequence} for subject, sequence in SUBJECTS]
    assert sequence_pairs(records, "ct", "mr") == [(0, 1), (3, 2)]
    assert sequence_pairs(records, "pet", "mr") == [(5, 4)]
    with pytest.raises(ValueError, match="no subject has ct and pet"):
        sequence_pairs(records, "ct", "pet")


def test_items_hold_four_images():
    records = [{"value": float(k), "subject": s, "sequence": m} for k, (s, m) in enumerate(SUBJECTS[:4])]
    dataset = PairDataset(records, as_tensors, pairs=paired_modalities(records))
    for item, quadruple in zip((dataset[k] for k in range(len(dataset))), dataset.pairs, strict=True):
        names = ("fixed", "moving", "fixed_paired", "moving_paired")
        assert tuple(float(item[name].max()) - 1 for name in names) == quadruple


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"image": "x.nii", "subject": "a"}], "x.nii: its record has no subject or no sequence"),
        ([{"image": "x.nii", "subject": "a", "sequence": "ct"}] * 2, "x.nii: a has two images of ct"),
        ([{"subject": s, "sequence": "ct"} for s in "ab"], "no subject with two sequences"),
    ],
)
def test_what_makes_no_paired_modalities(records, message):
    with pytest.raises(ValueError, match=message):
        paired_modalities(records)


class Shifting(Randomizable):
    """Adds a random number."""

    def __call__(self, data):
        return {**data, "image": data["image"] + self.R.uniform()}


def test_draws_come_again_after_their_number():
    dataset = PairDataset(images(2), as_tensors, Shifting(), draws=3)
    values = [float(dataset[4 * turn]["moving"].max()) for turn in range(7)]
    assert len(set(values[:3])) == 3
    assert values == [values[turn % 3] for turn in range(7)]
    with pytest.raises(ValueError, match="one draw or more, got 0"):
        PairDataset(images(2), as_tensors, draws=0)


def test_several_fixed_sequences():
    records = [{"subject": "a", "sequence": name} for name in ("ct", "t1", "t2", "flair")]
    assert sequence_pairs(records, ["t1", "t2"], "ct") == [(1, 0), (2, 0)]


def heads(*modalities: str) -> list[dict[str, object]]:
    return [{"image": f"/x/{k}.nii", "value": float(k), "modality": name} for k, name in enumerate(modalities)]


def test_classes():
    dataset = ClassDataset(heads("CT", "MR", "MR"), as_tensors, "modality", ("MR", "CT"), Shifting(), seed=1)
    assert len(dataset) == 3
    items = [dataset[k] for k in range(6)]
    assert [int(item["label"]) for item in items] == [1, 0, 0, 1, 0, 0]
    assert [(item["name"], item["true"]) for item in items[:2]] == [("0.nii", "CT"), ("1.nii", "MR")]
    assert float(items[0]["image"].max()) != float(items[3]["image"].max())
    assert float(dataset[3]["image"].max()) == float(items[3]["image"].max())
    with pytest.raises(ValueError, match=r"/x/1\.nii: modality is PET, expected one of"):
        ClassDataset(heads("CT", "PET"), as_tensors, "modality", ("MR", "CT"))


def test_balanced():
    records = balanced(heads("CT", "MR", "MR", "MR", "MR"), "modality")
    assert [record["modality"] for record in records].count("CT") == 4
    assert len(records) == 8
