# SPDX-License-Identifier: Apache-2.0
"""Images in memory, and pairs of them made when asked for, reproducibly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from monai.transforms import Randomizable
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler
from tqdm import tqdm

from regplugins.checks import first_cause

# Those that are aligned with the fixed and with the moving image, of the other's modality.
PAIRED = ("fixed_paired", "moving_paired")


class _AugmentedImages(Dataset):
    """Images that are read and transformed once and kept in memory, and draws of augmentations that depend on a seed
    and an index alone.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Mapping[str, Tensor]],
        augmentation: Randomizable | None,
        seed: int,
    ) -> None:
        if len(data) == 0:
            raise ValueError("no images to train on")
        self.data = data
        self.images = [_prepared(record, transform) for record in tqdm(data, desc="reading images", mininterval=1)]
        self.augmentation = augmentation
        self.seed = seed

    def _augment(
        self, augmentation: Any, values: Mapping[str, Tensor], index: int, number: int
    ) -> Mapping[str, Tensor]:
        if augmentation is None:
            return values
        draw = np.random.SeedSequence([self.seed, index, number]).generate_state(1)[0]
        augmentation.set_random_state(seed=int(draw))
        return augmentation(values)


class ClassDataset(_AugmentedImages):
    """Single images and the class of each; indices go on beyond their number with the same images again, but another
    draw of the augmentation.

    Args:
        data: records, each with an ``image`` and its class.
        transform: makes of a record a mapping with ``image`` ``(1, *spatial)``; deterministic.
        key: of the class in the records.
        classes: all that there are, in the order of a network's outputs.
        augmentation: random transform of such a mapping, which has the class, too, under ``key``.
        seed: of the augmentation.

    Raises:
        ValueError: no records, one that cannot be transformed, or one of an unknown class.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Mapping[str, Tensor]],
        key: str,
        classes: Sequence[str],
        augmentation: Randomizable | None = None,
        seed: int = 0,
    ) -> None:
        for record in data:
            if record.get(key) not in classes:
                raise ValueError(f"{record.get('image')}: {key} is {record.get(key)}, expected one of {list(classes)}")
        super().__init__(data, transform, augmentation, seed)
        self.key = key
        self.numbers = [list(classes).index(record[key]) for record in data]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Returns:
            ``image``; ``label``, the number of its class, and ``true``, the class; ``name``, of its file.
        """
        which = index % len(self.data)
        record = self.data[which]
        shown = {"image": self.images[which]["image"], self.key: record[self.key]}
        item = self._augment(self.augmentation, shown, index, 0)
        return {
            "image": item["image"].as_subclass(Tensor),
            "label": torch.tensor(self.numbers[which]),
            "true": record[self.key],
            "name": Path(record["image"]).name,
        }


class PairDataset(_AugmentedImages):
    """Ordered pairs of ``n`` images, by default all: item ``k`` is then fixed image ``k // n``, moving image ``k % n``.

    Each image is read and transformed once and kept in memory; pairs are made when asked for. Indices go on beyond
    their number with the same pairs again, but another draw of the augmentations.

    Args:
        data: ``n`` records, each with an ``image`` and what else a loss needs.
        transform: makes of a record a mapping of tensors on a grid that all images share; deterministic.
        augmentation: random transform of such a mapping, applied to each image independently; what it does depends on
            ``seed`` and the index alone.
        pair_augmentation: the like of a whole item.
        pairs: indices of fixed and moving record, and perhaps of those paired with them (``paired_modalities``).
        seed: of the augmentations.
        draws: how many draws of the augmentations a pair has before they come again; default: no end of them.

    Raises:
        ValueError: no records, one that cannot be transformed, or fewer than one draw.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Mapping[str, Tensor]],
        augmentation: Randomizable | None = None,
        pair_augmentation: Randomizable | None = None,
        pairs: Sequence[tuple[int, ...]] | None = None,
        seed: int = 0,
        draws: int | None = None,
    ) -> None:
        if draws is not None and draws < 1:
            raise ValueError(f"expected one draw or more, got {draws}")
        super().__init__(data, transform, augmentation, seed)
        self.pair_augmentation = pair_augmentation
        everything: list[tuple[int, ...]] = list(product(range(len(data)), repeat=2))
        self.pairs = everything if pairs is None else pairs
        self.draws = draws

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """
        Returns:
            ``moving`` and ``fixed`` for the key ``image``, ``moving_<key>`` and ``fixed_<key>`` for every other one of
            the records; likewise ``fixed_paired`` and ``moving_paired``, if there are.
        """
        if self.draws is not None:
            index %= self.draws * len(self.pairs)
        fixed, moving, *paired = self.pairs[index % len(self.pairs)]
        item: dict[str, Tensor] = {}
        # An image's number enters the draw of its augmentation, and 2 is that of the pair's.
        images = [(0, "moving", moving), (1, "fixed", fixed), *zip((3, 4), PAIRED, paired, strict=False)]
        for number, side, image in images:
            record = self._augment(self.augmentation, self.images[image], index, number)
            item |= {side if key == "image" else f"{side}_{key}": value for key, value in record.items()}
        item = dict(self._augment(self.pair_augmentation, item, index, 2))
        # MONAI's augmentations give MetaTensors, which keep books at every operation
        return {key: value.as_subclass(Tensor) for key, value in item.items()}


def _prepared(
    record: Mapping[str, Any], transform: Callable[[Mapping[str, Any]], Mapping[str, Tensor]]
) -> Mapping[str, Tensor]:
    """The transformed record; an error names its image."""
    try:
        return transform(record)
    except Exception as error:
        cause, image = first_cause(error), str(record.get("image"))
        raise ValueError(str(cause) if image in str(cause) else f"{image}: {cause}") from error


class PairSampler(DistributedSampler):
    """Goes through all pairs, or images, in random order, a part each epoch, before it takes any of them again.

    What it yields depends on ``seed`` and the epoch alone, so that a resumed training sees what it would have seen.
    MONAI's engines set the epoch (they count from one).

    Args:
        dataset: the pairs.
        num_samples: pairs an epoch, over all processes.
        seed: of the order.

    Raises:
        ValueError: fewer samples than processes.
    """

    def __init__(self, dataset: PairDataset | ClassDataset, num_samples: int, seed: int = 0) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        super().__init__(
            dataset,
            num_replicas=dist.get_world_size() if distributed else 1,
            rank=dist.get_rank() if distributed else 0,
            seed=seed,
        )
        if num_samples < self.num_replicas:
            raise ValueError(f"{num_samples} pairs an epoch are too few for {self.num_replicas} processes")
        self.num_samples = num_samples // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        pairs = len(self.dataset)  # type: ignore[arg-type]
        samples = self.num_samples * self.num_replicas
        draws = range(self.epoch * samples + self.rank, (self.epoch + 1) * samples, self.num_replicas)
        order, turn = torch.empty(0, dtype=torch.int64), -1
        for draw in draws:
            if draw // pairs != turn:
                turn = draw // pairs
                order = torch.randperm(pairs, generator=torch.Generator().manual_seed(self.seed + turn))
            yield turn * pairs + int(order[draw % pairs])

    def __len__(self) -> int:
        return self.num_samples
