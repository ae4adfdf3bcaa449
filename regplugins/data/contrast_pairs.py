# SPDX-License-Identifier: Apache-2.0
"""PyTorch data set of pairs in random contrasts: one anatomy, as it is or to be warped, or two people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from torch import Tensor

from regplugins.data.contrast import RandContrast
from regplugins.data.datasets import AugmentedImages
from regplugins.data.pairs import check_keys, two_images

# Relations of the images of a pair. ``RandWarpPaird`` leaves the first kind aligned and warps the others.
KINDS = ("identity", "warped", "between")
IDENTITY, WARPED, BETWEEN = range(3)


class ContrastPairDataset(AugmentedImages):
    """Pairs whose fixed image has one random contrast, and whose moving image has another.

    The kind of a pair is drawn first, then the family, the subjects and the sequences. A pair of one subject has
    "identity" or "warped" as its kind, a pair of two subjects of a family "between". A pair shows two sequences, one
    label map in two contrasts, or the only sequence of a subject. Each image is transformed once and cached. An item
    depends on the seed and its index alone; indices beyond the length give further items.

    Args:
        data: records, each with ``subject``, ``sequence`` and either ``image`` or ``label_map``, a path. All images of
            a subject are aligned, and those of a ``family`` affinely; without it all are of one family.
        transform: maps a record to a mapping with ``image`` in [0, 1] or ``label_map``, ``(1, *spatial)`` on a grid
            that all share; deterministic.
        contrasts: of the "fixed" and of the "moving" image.
        shares: of the kinds of pairs; they are divided by their sum.
        families: relative probabilities by name; 1 for those that are not named.
        paired: add ``fixed_paired``, the fixed subject in the moving contrast, and ``moving_paired``, the moving
            subject in the fixed contrast. Two subjects then show sequences that both have.
        pair_augmentation: random transform of a whole item.
        seed: of all draws.

    Raises:
        ValueError: if there are no records, a record cannot be transformed, a subject has a sequence twice, a kind is
            unknown, or none of its pairs can be shown.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Mapping[str, Any]], Mapping[str, Tensor]],
        contrasts: Mapping[str, RandContrast],
        shares: Mapping[str, float],
        families: Mapping[str, float] | None = None,
        paired: bool = False,
        pair_augmentation: Randomizable | None = None,
        seed: int = 0,
    ) -> None:
        if set(shares) != set(KINDS) or min(shares.values()) < 0 or sum(shares.values()) <= 0:
            raise ValueError(f"shares must be numbers of at least 0 for {KINDS}, not all 0, got {dict(shares)}")
        check_keys(data)
        super().__init__(data, transform, None, seed)
        self.contrasts = contrasts
        self.paired = paired
        self.pair_augmentation = pair_augmentation
        weights = np.array([shares[kind] for kind in KINDS], float)
        self.shares = weights / weights.sum()
        self.choices = [self._choices(kind) for kind in range(len(KINDS))]
        self.families = families or {}
        for share, kind, choices in zip(self.shares, KINDS, self.choices, strict=True):
            if share > 0 and not choices:
                allowed = ", ".join(f"{side}: {contrasts[side].sequences or 'any'}" for side in ("fixed", "moving"))
                raise ValueError(
                    f"no pair of the kind '{kind}' can be made of {len(data)} images (sequences {allowed}); "
                    "set its share to 0"
                )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """
        Returns:
            ``moving``, ``fixed`` and, if ``paired``, ``moving_paired`` and ``fixed_paired``, ``(1, *spatial)``, before
            the augmentation of pairs; ``kind``, the index in ``KINDS``, ``()``.
        """
        random = np.random.RandomState(np.random.SeedSequence([self.seed, index]).generate_state(4))
        kind = int(random.choice(len(KINDS), p=self.shares))
        fixed, moving, fixed_paired, moving_paired = self._draw(random, self.choices[kind])
        sides = {"fixed": [("fixed", fixed)], "moving": [("moving", moving)]}
        if self.paired:
            sides["moving"].append(("fixed_paired", fixed_paired))
            sides["fixed"].append(("moving_paired", moving_paired))
        item = {"kind": torch.tensor(kind)}
        for side, images in sides.items():
            contrast = self.contrasts[side].set_random_state(state=random)
            contrast.randomize()
            item |= {key: contrast(self.images[number]) for key, number in images}
        if self.pair_augmentation is not None:
            augmentation: Any = self.pair_augmentation.set_random_state(state=random)
            item = augmentation(item)
        # MONAI's augmentations give MetaTensors, which are slow in the training loop
        return {key: value.as_subclass(Tensor) for key, value in item.items()}

    def _draw(self, random: np.random.RandomState, choices: Mapping[str, Any]) -> tuple[int, ...]:
        """Draw a family, its subjects, and their sequences."""
        weights = np.array([self.families.get(family, 1.0) for family in choices])
        subjects = list(choices.values())[random.choice(len(weights), p=weights / weights.sum())]
        shown = subjects[random.randint(len(subjects))]
        return tuple(shown[random.randint(len(shown))])

    def _choices(self, kind: int) -> dict[str, list[list[tuple[int, ...]]]]:
        """Indices of fixed, moving, fixed paired and moving paired record, by family and subjects."""
        families: dict[str, dict[str, dict[str, int]]] = {}
        for index, record in enumerate(self.data):
            sequences = families.setdefault(record.get("family", ""), {}).setdefault(record["subject"], {})
            if record["sequence"] in sequences:
                raise ValueError(two_images(record))
            sequences[record["sequence"]] = index
        choices: dict[str, list[list[tuple[int, ...]]]] = {}
        for family, subjects in families.items():
            for (name, own), (other_name, other) in product(subjects.items(), repeat=2):
                if (name != other_name) == (kind == BETWEEN) and (shown := self._shown(own, other)):
                    choices.setdefault(family, []).append(shown)
        return choices

    def _shown(self, fixed: Mapping[str, int], moving: Mapping[str, int]) -> list[tuple[int, ...]]:
        """Records of the sequences that a fixed and a moving subject can show."""

        def allowed(side: str, sequence: str) -> bool:
            sequences = self.contrasts[side].sequences
            both = sequence in fixed and sequence in moving
            return (sequences is None or sequence in sequences) and (both or not self.paired)

        pairs = [(a, b) for a, b in product(fixed, moving) if allowed("fixed", a) and allowed("moving", b)]
        # One sequence twice shows nothing new, unless it is rendered from labels.
        several = [(a, b) for a, b in pairs if a != b or "label_map" in self.images[fixed[a]]]
        return [(fixed[a], moving[b], fixed.get(b, -1), moving.get(a, -1)) for a, b in several or pairs]
