# SPDX-License-Identifier: Apache-2.0
"""Which images of a set make pairs, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations, product
from typing import Any

from regplugins.checks import boolean, whole


def multimodal_pairs(records: Sequence[Mapping[str, Any]], intra_subject_repeats: int = 1) -> list[tuple[int, int]]:
    """Every ordered pair of images of different sequences, of one subject and of two.

    Args:
        records: each with ``subject`` and ``sequence``.
        intra_subject_repeats: how many times a pair of one subject is listed; a pair of two subjects, of which there
            are many more, is listed once.

    Returns:
        Indices of fixed and moving record.

    Raises:
        ValueError: there is no such pair, or a record lacks a key.
    """
    _check_keys(records)
    pairs = []
    for (fixed, a), (moving, b) in permutations(enumerate(records), 2):
        if a["sequence"] != b["sequence"]:
            pairs += [(fixed, moving)] * (intra_subject_repeats if a["subject"] == b["subject"] else 1)
    if not pairs:
        raise ValueError("no two images of different sequences")
    return pairs


def sequence_pairs(
    records: Sequence[Mapping[str, Any]], fixed: str | Sequence[str], moving: str
) -> list[tuple[int, int]]:
    """The pairs of given sequences of every subject that has them.

    Args:
        records: each with ``subject`` and ``sequence``.
        fixed: sequence of the fixed images, or several.
        moving: sequence of the moving ones.

    Returns:
        Indices of fixed and moving record.

    Raises:
        ValueError: no subject has such a pair, or a record lacks a key.
    """
    _check_keys(records)
    wanted = [fixed] if isinstance(fixed, str) else fixed
    pairs = [
        (a, b)
        for (a, one), (b, other) in permutations(enumerate(records), 2)
        if one["subject"] == other["subject"] and one["sequence"] in wanted and other["sequence"] == moving
    ]
    if not pairs:
        raise ValueError(f"no subject has {fixed} and {moving}")
    return pairs


def paired_modalities(
    records: Sequence[Mapping[str, Any]],
    intra_subject_repeats: int = 1,
    fixed: str | None = None,
    moving: str | None = None,
    between_patients: bool = True,
    include_identity_pairs: bool = True,
) -> list[tuple[int, int, int, int]]:
    """Every fixed and moving image of two sequences, with what supervises them: the other sequence of either subject.

    For a fixed image ``A_i`` and a moving one ``B_j`` these are ``B_i`` and ``A_j``, aligned with them (Cao et al.,
    MLMI 2018), so that subjects give pairs in the sequences that they share.

    Args:
        records: each with ``subject`` and ``sequence``; all images of a subject are aligned. Where one patient is there
            as several subjects, aligned in different shapes (``prepare_aligned_pairs``), with ``patient``.
        intra_subject_repeats: how many times a pair of one patient is listed; a pair of two patients is listed once.
        fixed: sequence that fixed images must have; default: any.
        moving: sequence that moving images must have; default: any.
        between_patients: False: no pairs of two patients.
        include_identity_pairs: list pairs of a subject with itself. Without random warps they are aligned already.

    Returns:
        Indices of fixed, moving, and the fixed and the moving one's paired record.

    Raises:
        TypeError: ``between_patients`` or ``include_identity_pairs`` is no boolean.
        ValueError: if there is no such pair, ``intra_subject_repeats`` is not a whole number of at least 1, a record
            lacks a key, or a subject has a sequence twice.
    """
    _check_keys(records)
    intra_subject_repeats = whole("intra_subject_repeats", intra_subject_repeats)
    boolean("between_patients", between_patients)
    boolean("include_identity_pairs", include_identity_pairs)
    subjects: dict[str, dict[str, int]] = {}
    patients: dict[str, str] = {}
    for index, record in enumerate(records):
        patients[record["subject"]] = record.get("patient", record["subject"])
        if record["sequence"] in subjects.setdefault(record["subject"], {}):
            raise ValueError(f"{record.get('image')}: {record['subject']} has two images of {record['sequence']}")
        subjects[record["subject"]][record["sequence"]] = index
    pairs = []
    for (name, own), (other_name, other) in product(subjects.items(), repeat=2):
        same = patients[name] == patients[other_name]
        if not (same or between_patients) or (name == other_name and not include_identity_pairs):
            continue
        shared = [sequence for sequence in own if sequence in other]
        for a, b in permutations(shared, 2):
            if fixed in (None, a) and moving in (None, b):
                pairs += [(own[a], other[b], own[b], other[a])] * (intra_subject_repeats if same else 1)
    if not pairs:
        there = sorted({record["sequence"] for record in records})
        what = "subject with two sequences" if include_identity_pairs else "patient in two shapes with two sequences"
        raise ValueError(
            f"no {what} (fixed: {fixed or 'any'}, moving: {moving or 'any'}) among "
            f"{len(records)} images of the sequences {there}"
        )
    return pairs


def balance_by(records: Sequence[Mapping[str, Any]], *keys: str) -> list[Mapping[str, Any]]:
    """The records, those of rarer classes several times, so that every class comes about as often.

    Args:
        records: at least one.
        keys: what they hold under these, or that they hold nothing, makes the class of the records.
    """
    classes = [tuple(record.get(key) for key in keys) for record in records]
    counts = Counter(classes)
    most = max(counts.values())
    return [record for record, name in zip(records, classes, strict=True) for _ in range(round(most / counts[name]))]


def subsample(pairs: Sequence[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
    """As many of the pairs, at even distances in their order; where they are fewer, all, some once more than others.

    Args:
        pairs: at least one.
        count: how many.

    Raises:
        ValueError: ``count`` is less than 1.
    """
    if count < 1:
        raise ValueError(f"expected one pair or more, got {count}")
    return [pairs[k * len(pairs) // count] for k in range(count)]


def _check_keys(records: Sequence[Mapping[str, Any]]) -> None:
    for record in records:
        if not {"subject", "sequence"} <= record.keys():
            raise ValueError(f"{record.get('image')}: its record has no subject or no sequence")
