# SPDX-License-Identifier: Apache-2.0
"""Selection and repetition of training pairs."""

from collections import Counter

import pytest

from regplugins.data import balance_by, multimodal_pairs, paired_modalities, sequence_pairs, subsample

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


@pytest.mark.parametrize("intra_subject_repeats", [0, 1, 4])
def test_pairs_of_one_subject_are_listed_so_many_times(intra_subject_repeats):
    found = multimodal_pairs(RECORDS, intra_subject_repeats)
    for fixed in range(4):
        for moving in range(4):
            differ = RECORDS[fixed]["sequence"] != RECORDS[moving]["sequence"]
            same = RECORDS[fixed]["subject"] == RECORDS[moving]["subject"]
            assert found.count((fixed, moving)) == differ * (intra_subject_repeats if same else 1)


@pytest.mark.parametrize("key", ["subject", "sequence"])
def test_a_record_that_lacks_a_key_is_named(key):
    records = [*RECORDS, {k: v for k, v in RECORDS[0].items() if k != key} | {"image": "odd.nii.gz"}]
    with pytest.raises(ValueError, match=r"odd\.nii\.gz: .*no subject or no sequence"):
        multimodal_pairs(records)


@pytest.mark.parametrize("records", [[], RECORDS[:1], [RECORDS[0], RECORDS[2]]])
def test_without_two_sequences_there_is_no_pair(records):
    with pytest.raises(ValueError, match="different sequences"):
        multimodal_pairs(records)


SUBJECTS = [("a", "ct"), ("a", "mr"), ("b", "mr"), ("b", "ct"), ("c", "mr"), ("c", "pet"), ("d", "ct")]


def test_paired_modalities_hold_both_sides_partners():
    records = [{"subject": subject, "sequence": sequence} for subject, sequence in SUBJECTS]
    quadruples = paired_modalities(records, intra_subject_repeats=3)
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


def test_without_those_that_lie_on_each_other():
    records = [{"subject": s, "patient": "p", "sequence": m} for s in ("p", "p_moving") for m in ("ct", "mr")]
    found = paired_modalities(records, fixed="ct", moving="mr", include_identity_pairs=False)
    assert found == [(0, 3, 1, 2), (2, 1, 3, 0)]  # as scanned, and the other way round
    with pytest.raises(ValueError, match="no patient in two shapes with two sequences"):
        paired_modalities(records[:2], between_patients=False, include_identity_pairs=False)
    with pytest.raises(TypeError, match="include_identity_pairs"):
        paired_modalities(records, include_identity_pairs="no")


@pytest.mark.parametrize("intra_subject_repeats", [0, "x", 1.5])
def test_how_often_is_a_number(intra_subject_repeats):
    records = [{"subject": "p", "sequence": m} for m in ("ct", "mr")]
    with pytest.raises(ValueError, match="intra_subject_repeats must be a whole number of at least 1"):
        paired_modalities(records, intra_subject_repeats)


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 5]), (5, [0, 2, 4, 6, 8]), (10, list(range(10)))])
def test_spread_takes_of_everywhere(count, expected):
    assert subsample([(k, k) for k in range(10)], count) == [(k, k) for k in expected]


def test_spread_of_few_takes_all_alike():
    found = subsample([(0, 1), (1, 0), (2, 0)], 9)
    assert sorted(found) == sorted([(0, 1), (1, 0), (2, 0)] * 3)
    with pytest.raises(ValueError, match="expected one pair or more, got 0"):
        subsample([(0, 1)], 0)


def test_sequence_pairs_are_of_one_subject():
    records = [{"subject": subject, "sequence": sequence} for subject, sequence in SUBJECTS]
    assert sequence_pairs(records, "ct", "mr") == [(0, 1), (3, 2)]
    assert sequence_pairs(records, "pet", "mr") == [(5, 4)]
    with pytest.raises(ValueError, match="no subject has ct and pet"):
        sequence_pairs(records, "ct", "pet")


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


def test_several_fixed_sequences():
    records = [{"subject": "a", "sequence": name} for name in ("ct", "t1", "t2", "flair")]
    assert sequence_pairs(records, ["t1", "t2"], "ct") == [(1, 0), (2, 0)]


def heads(*modalities: str) -> list[dict[str, object]]:
    return [{"image": f"/x/{k}.nii", "value": float(k), "modality": name} for k, name in enumerate(modalities)]


def test_balanced():
    records = balance_by(heads("CT", "MR", "MR", "MR", "MR"), "modality")
    assert [record["modality"] for record in records].count("CT") == 4
    assert len(records) == 8


def test_balanced_by_two_keys():
    made = [{**record, "kind": "made"} for record in heads(*["CT"] * 6, *["MR"] * 6)]
    scans = [{**record, "kind": "scan"} for record in heads("CT", "CT", "MR")]
    counts = Counter((record["modality"], record["kind"]) for record in balance_by(made + scans, "modality", "kind"))
    assert counts == dict.fromkeys([("CT", "made"), ("MR", "made"), ("CT", "scan"), ("MR", "scan")], 6)
