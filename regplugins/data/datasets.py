# SPDX-License-Identifier: Apache-2.0
"""PyTorch data sets of cached images and of their pairs, with reproducible augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from monai.data import MetaTensor
from monai.transforms import Randomizable
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler
from tqdm import tqdm

from regplugins.checks import first_cause
from regplugins.data.records import shown_file
from regplugins.spatial import Grid

# Images aligned with the fixed and with the moving image, in the modality of the other.
PAIRED = ("fixed_paired", "moving_paired")


class AugmentedImages(Dataset):
    """Base class: images are transformed once and cached; augmentation depends on the seed and the index alone."""

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
        images = [_prepared(record, transform) for record in tqdm(data, desc="reading images", mininterval=1)]
        _check_aligned(data, images)
        # Without metadata, which makes augmentation slow.
        self.images = [{key: _plain(value) for key, value in image.items()} for image in images]
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


class ClassDataset(AugmentedImages):
    """Single images with their classes.

    Indices beyond the number of images repeat the images with another draw of the augmentation.

    Args:
        data: records, each with an ``image`` and its class.
        transform: maps a record to a mapping with ``image`` ``(1, *spatial)``; deterministic.
        key: of the class in the records.
        classes: in the order of a network's outputs.
        augmentation: random transform of such a mapping, which also has the class under ``key``.
        seed: of the augmentation.

    Raises:
        ValueError: if there are no records, a record cannot be transformed, or its class is unknown.
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
            ``image``; ``label``, the number of its class; ``true``, its class; ``name``, of its file.
        """
        number = index % len(self.data)
        record = self.data[number]
        values = {"image": self.images[number]["image"], self.key: record[self.key]}
        item = self._augment(self.augmentation, values, index, 0)
        return {
            "image": item["image"].as_subclass(Tensor),
            "label": torch.tensor(self.numbers[number]),
            "true": record[self.key],
            "name": Path(record["image"]).name,
        }


class PairDataset(AugmentedImages):
    """Ordered pairs of ``n`` images.

    By default these are all pairs: item ``k`` has fixed image ``k // n`` and moving image ``k % n``. Each image is
    transformed once and cached. Indices beyond the number of pairs repeat the pairs with another draw of the
    augmentations.

    Args:
        data: ``n`` records, each with an ``image`` and further inputs of a loss.
        transform: maps a record to a mapping of tensors on a grid that all images share; deterministic.
        augmentation: random transform of such a mapping, applied to each image independently.
        pair_augmentation: random transform of a whole item.
        pairs: indices of fixed and moving record, optionally of their paired records (``paired_modalities``).
        seed: of the augmentations.
        draws: number of draws of the augmentations per pair, after which they repeat; default: unlimited.

    Raises:
        ValueError: if there are no records, a record cannot be transformed, records have different inputs, or ``draws``
            is less than 1.
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
        common = self.images[0].keys()
        for record, image in zip(data, self.images, strict=True):
            if different := sorted(common ^ image.keys()):
                raise ValueError(
                    f"{record.get('image')} or {data[0].get('image')} has no {', '.join(different)}: of the images to "
                    "train on all need one, or none has it"
                )
        self.pair_augmentation = pair_augmentation
        all_pairs: list[tuple[int, ...]] = list(product(range(len(data)), repeat=2))
        self.pairs = all_pairs if pairs is None else pairs
        self.draws = draws

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """
        Returns:
            ``moving`` and ``fixed`` for the key ``image``, and ``moving_<key>`` and ``fixed_<key>`` for every other
            key; likewise for ``fixed_paired`` and ``moving_paired``, if the pair has them.
        """
        if self.draws is not None:
            index %= self.draws * len(self.pairs)
        fixed, moving, *paired = self.pairs[index % len(self.pairs)]
        item: dict[str, Tensor] = {}
        # The number seeds the image's augmentation; the pair's has 2.
        images = [(0, "moving", moving), (1, "fixed", fixed), *zip((3, 4), PAIRED, paired, strict=False)]
        for number, side, image in images:
            record = self._augment(self.augmentation, self.images[image], index, number)
            item |= {side if key == "image" else f"{side}_{key}": value for key, value in record.items()}
        item = dict(self._augment(self.pair_augmentation, item, index, 2))
        # MONAI's augmentations give MetaTensors, which are slow in the training loop
        return {key: value.as_subclass(Tensor) for key, value in item.items()}


def _prepared(
    record: Mapping[str, Any], transform: Callable[[Mapping[str, Any]], Mapping[str, Tensor]]
) -> Mapping[str, Tensor]:
    """Transform a record; errors name its image."""
    try:
        return transform(record)
    except Exception as error:
        cause, image = first_cause(error), shown_file(record)
        raise ValueError(str(cause) if image in str(cause) else f"{image}: {cause}") from error


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, Tensor) else value


def _check_aligned(data: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Tensor]]) -> None:
    """Refuse a subject whose images, as far as transforms tell, come to lie on different grids: they count as aligned.

    Each is resampled about the center of its own field of view.
    """
    first: dict[str, tuple[Mapping[str, Any], Grid]] = {}
    for record, image in zip(data, images, strict=True):
        shown = image.get("image", image.get("label_map"))
        if "subject" in record and isinstance(shown, MetaTensor):
            grid = Grid.from_image(shown)
            other, known = first.setdefault(record["subject"], (record, grid))
            if not known.matches(grid, tolerance=0.1):
                raise ValueError(
                    f"{shown_file(record)}: its field of view is not that of {shown_file(other)}; all images of a "
                    f"subject ({record['subject']}) need one: resample one to the grid of the other"
                )


class PairSampler(DistributedSampler):
    """Sampler that draws every pair or image once, over several epochs, before it repeats any.

    The indices depend on ``seed`` and the epoch alone, so that a resumed training continues with the same pairs.
    MONAI's engines set the epoch, counted from one: the first round lacks as many pairs as an epoch has.

    Args:
        dataset: pairs or images.
        num_samples: items per epoch, over all processes.
        seed: of the order.

    Raises:
        ValueError: if ``num_samples`` is less than the number of processes.
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
        order, cycle = torch.empty(0, dtype=torch.int64), -1
        for draw in draws:
            if draw // pairs != cycle:
                cycle = draw // pairs
                order = torch.randperm(pairs, generator=torch.Generator().manual_seed(self.seed + cycle))
            yield cycle * pairs + int(order[draw % pairs])

    def __len__(self) -> int:
        return self.num_samples
