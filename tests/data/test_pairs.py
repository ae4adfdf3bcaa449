# SPDX-License-Identifier: Apache-2.0
"""Ordered pairs: all of them, each once, the same again for the same seed."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import RandAffined

from regplugins.data import PairDataset, PairSampler


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
