# SPDX-License-Identifier: Apache-2.0
"""Selection of training pairs from the records of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations, product
from typing import Any

from regplugins.checks import boolean, whole
from regplugins.data.records import shown_file


def two_images(record: Mapping[str, Any]) -> str:
    """Message about the record of a subject's second image of one sequence."""
    return f"{shown_file(record)}: {record['subject']} has two images of {record['sequence']}"


def multimodal_pairs(records: Sequence[Mapping[str, Any]], intra_subject_repeats: int = 1) -> list[tuple[int, int]]:
    """All ordered pairs of images of different sequences, within and between subjects.

    Args:
        records: each with ``subject`` and ``sequence``.
        intra_subject_repeats: number of times that a pair of one subject is listed; pairs of two subjects are listed
            once.

    Returns:
        Indices of fixed and moving record.

    Raises:
        ValueError: if there is no such pair, or a record lacks a key.
    """
    check_keys(records)
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
    """All pairs of given sequences within subjects.

    Args:
        records: each with ``subject`` and ``sequence``.
        fixed: sequence of the fixed images, or several.
        moving: sequence of the moving images.

    Returns:
        Indices of fixed and moving record.

    Raises:
        ValueError: if no subject has such a pair, or a record lacks a key.
    """
    check_keys(records)
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
    """All pairs of two sequences, each image with its paired image: the other sequence of the same subject.

    A fixed image ``A_i`` is paired with ``B_i``, a moving image ``B_j`` with ``A_j`` (Cao et al., MLMI 2018). Two
    subjects give pairs in the sequences that both have.

    Args:
        records: each with ``subject`` and ``sequence``; all images of a subject are aligned. A ``patient`` may have
            several subjects, aligned in different shapes (``prepare_aligned_pairs``); default: the subject.
        intra_subject_repeats: number of times that a pair of one patient is listed; pairs of two patients are listed
            once.
        fixed: sequence of the fixed images; default: any.
        moving: sequence of the moving images; default: any.
        between_patients: list pairs of two patients.
        include_identity_pairs: list pairs of a subject with itself. Without random warps they are aligned already.

    Returns:
        Indices of fixed and moving record, and of the paired records of both.

    Raises:
        TypeError: if ``between_patients`` or ``include_identity_pairs`` is not a boolean.
        ValueError: if there is no such pair, ``intra_subject_repeats`` is not a whole number of at least 1, a record
            lacks a key, or a subject has a sequence twice.
    """
    check_keys(records)
    intra_subject_repeats = whole("intra_subject_repeats", intra_subject_repeats)
    boolean("between_patients", between_patients)
    boolean("include_identity_pairs", include_identity_pairs)
    subjects: dict[str, dict[str, int]] = {}
    patients: dict[str, str] = {}
    for index, record in enumerate(records):
        patients[record["subject"]] = record.get("patient", record["subject"])
        if record["sequence"] in subjects.setdefault(record["subject"], {}):
            raise ValueError(two_images(record))
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
        sequences = sorted({record["sequence"] for record in records})
        what = "subject with two sequences" if include_identity_pairs else "patient in two shapes with two sequences"
        raise ValueError(
            f"no {what} (fixed: {fixed or 'any'}, moving: {moving or 'any'}) among "
            f"{len(records)} images of the sequences {sequences}"
        )
    return pairs


def balance_by(records: Sequence[Mapping[str, Any]], *keys: str) -> list[Mapping[str, Any]]:
    """Repeat the records of rare classes, so that all classes have nearly equal counts.

    Args:
        records: at least one.
        keys: whose values define the class of a record.
    """
    classes = [tuple(record.get(key) for key in keys) for record in records]
    counts = Counter(classes)
    most = max(counts.values())
    return [record for record, name in zip(records, classes, strict=True) for _ in range(round(most / counts[name]))]


def subsample(pairs: Sequence[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
    """``count`` pairs at equal distances in the list; pairs are repeated if there are fewer.

    Raises:
        ValueError: if ``count`` is less than 1.
    """
    if count < 1:
        raise ValueError(f"expected one pair or more, got {count}")
    return [pairs[k * len(pairs) // count] for k in range(count)]


def check_keys(records: Sequence[Mapping[str, Any]]) -> None:
    """Raise ``ValueError`` if a record lacks ``subject`` or ``sequence``."""
    for record in records:
        if not {"subject", "sequence"} <= record.keys():
            raise ValueError(f"{shown_file(record)}: its record has no subject or no sequence")
