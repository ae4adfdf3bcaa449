# SPDX-License-Identifier: Apache-2.0
"""Data sets give all ordered pairs once per cycle, reproducibly by seed."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import RandAffined, Randomizable

from regplugins.data import ClassDataset, PairDataset, PairSampler, paired_modalities
from regplugins.data.datasets import AugmentedImages
from regplugins.transforms import ResampleToGridd


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


def test_images_of_a_subject_must_share_a_grid():
    """They count as aligned, and each is resampled about the center of its own field of view."""

    def on_a_grid(record: dict[str, Any]) -> dict[str, torch.Tensor]:
        affine = torch.eye(4, dtype=torch.float64)
        affine[2, 3] = record["place"]
        return ResampleToGridd(2.0, (8, 8, 8))({"image": MetaTensor(torch.rand(1, 16, 16, 16), affine=affine)})

    records = [{"image": f"{k}.nii", "subject": f"s{k // 2}", "place": float(k // 2)} for k in range(4)]
    assert not isinstance(PairDataset(records, on_a_grid)[1]["fixed"], MetaTensor)
    records[3]["place"] += 5
    with pytest.raises(
        ValueError, match=r"3\.nii: its field of view is not that of 2\.nii; all images of a subject \(s1\)"
    ):
        PairDataset(records, on_a_grid)


def test_label_maps_of_a_subject_must_share_a_grid():
    def on_a_grid(record: dict[str, Any]) -> dict[str, torch.Tensor]:
        affine = torch.diag(torch.tensor([1.0, 1.0, record["size"], 1.0], dtype=torch.float64))
        return {"label_map": MetaTensor(torch.zeros(1, 8, 8, 8), affine=affine)}

    records = [{"label_map": f"{k}.nii", "subject": "s", "size": 1.0 + k} for k in range(2)]
    with pytest.raises(ValueError, match=r"1\.nii: its field of view is not that of 0\.nii"):
        AugmentedImages(records, on_a_grid, None, 0)


def test_labels_of_some_images_are_an_error():
    records = [{"value": float(k), "image": f"{k}.nii"} for k in range(3)]

    def some(record: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {key: value for key, value in as_tensors(record).items() if key == "image" or record["value"] < 2}

    with pytest.raises(ValueError, match=r"2\.nii or 0\.nii has no label: .* all need one, or none has it"):
        PairDataset(records, some)


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


def test_items_hold_four_images():
    records = [{"value": float(k), "subject": s, "sequence": m} for k, (s, m) in enumerate(SUBJECTS[:4])]
    dataset = PairDataset(records, as_tensors, pairs=paired_modalities(records))
    for item, quadruple in zip((dataset[k] for k in range(len(dataset))), dataset.pairs, strict=True):
        names = ("fixed", "moving", "fixed_paired", "moving_paired")
        assert tuple(float(item[name].max()) - 1 for name in names) == quadruple


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
