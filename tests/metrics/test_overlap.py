# SPDX-License-Identifier: Apache-2.0
"""Overlap and surface distances against SciPy and SimpleITK."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter
from torch import Tensor

from regplugins.metrics import compare_label_sets, label_overlap, mean_overlap

SPACING = (1.0, 0.5, 2.0)


@pytest.fixture(scope="module")
def maps() -> tuple[Tensor, Tensor]:
    """Two label maps (1, 20, 24, 16) of blobs 1, 2 and 5 that overlap in part."""
    rng = np.random.default_rng(1)
    smooth = gaussian_filter(rng.standard_normal((20, 24, 16)), 3)
    bins = np.quantile(smooth, [0.5, 0.75, 0.9])
    reference = np.array([0, 1, 2, 5])[np.digitize(smooth, bins)]
    prediction = np.array([0, 1, 2, 5])[np.digitize(np.roll(smooth, (2, -1), (0, 1)), bins)]
    return torch.from_numpy(prediction)[None], torch.from_numpy(reference)[None]


def directed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of each surface voxel of a from the surface of b, by SciPy's distance transform."""
    return distance_transform_edt(~(b & ~binary_erosion(b)), sampling=SPACING)[a & ~binary_erosion(a)]


def test_against_scipy_and_itk(maps: tuple[Tensor, Tensor]) -> None:
    prediction, reference = (part[0].numpy() for part in maps)
    scores = label_overlap(*maps, SPACING)
    assert list(scores) == [1, 2, 5]
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(*(sitk.GetImageFromArray(part.astype(np.uint8)) for part in (reference, prediction)))
    for label, score in scores.items():
        a, b = prediction == label, reference == label
        there, back = directed(a, b), directed(b, a)
        assert score["dice"] == pytest.approx(measures.GetDiceCoefficient(label), abs=1e-6)
        assert score["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)
        assert score["asd"] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)


def test_missing_and_additional_structures() -> None:
    reference, prediction = torch.zeros(1, 6, 6, dtype=torch.int16), torch.zeros(1, 6, 6, dtype=torch.int16)
    reference[0, :2, :2], reference[0, 4:, 4:] = 1, 2
    prediction[0, :2, :2], prediction[0, 4:, :2] = 1, 9
    scores = label_overlap(prediction, reference, (1, 1))
    assert set(scores) == {1, 2}
    assert scores[1]["dice"] == 1
    assert scores[2]["dice"] == 0
    assert math.isnan(scores[2]["hd95"]) and math.isnan(scores[2]["asd"])
    assert label_overlap(torch.zeros_like(reference), reference, (1, 1))[1]["dice"] == 0
    assert label_overlap(reference, torch.zeros_like(reference), (1, 1)) == {}


def test_only_the_labels_asked_for(maps: tuple[Tensor, Tensor]) -> None:
    scores = label_overlap(*maps, SPACING)
    assert label_overlap(*maps, SPACING, [5, 1]) == {label: scores[label] for label in (1, 5)}
    assert label_overlap(*maps, SPACING, []) == {}


def test_a_missing_structure_counts_as_dice_0_and_has_no_distance() -> None:
    missing = {"dice": 0.0, "hd95": math.nan, "asd": math.nan}
    found = {"dice": 0.8, "hd95": 3.0, "asd": 1.0}
    assert mean_overlap({1: found, 2: missing}) == {"dice": pytest.approx(0.4), "hd95": 3.0, "asd": 1.0}
    assert math.isnan(mean_overlap({2: missing})["hd95"])


@pytest.mark.parametrize("offset", [0, 614454277])
def test_labels_of_both_and_of_one(offset: int) -> None:
    fixed, moving = torch.tensor([[0, 0, 1, 7, -3]]), torch.tensor([[[7, 7], [4, 0]]])
    shifted = [torch.where(labels == 0, 0, labels + offset) for labels in (fixed, moving)]
    expected = ([7], [-3, 1], [4])
    assert compare_label_sets(*shifted) == tuple([label + offset for label in part] for part in expected)


def test_any_integers_name_structures(maps: tuple[Tensor, Tensor]) -> None:
    names = {1: -7, 2: 12, 5: 614454277}
    renamed = [part.clone() for part in maps]
    for part, old in zip(renamed, maps, strict=True):
        for label, name in names.items():
            part[old == label] = name
    scores = label_overlap(*maps, SPACING)
    assert label_overlap(*renamed, SPACING) == {names[label]: score for label, score in scores.items()}


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing"),
    [
        (torch.zeros(1, 4, 4, dtype=torch.int32), torch.zeros(1, 4, 5, dtype=torch.int32), (1, 1)),
        (torch.zeros(1, 4, 4, dtype=torch.int32), torch.zeros(1, 4, 4, dtype=torch.int32), (1, 1, 1)),
        (torch.zeros(2, 4, 4, dtype=torch.int32), torch.zeros(2, 4, 4, dtype=torch.int32), (1, 1)),
        (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int32), (1, 1)),
    ],
)
def test_bad_input(prediction: Tensor, reference: Tensor, spacing: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        label_overlap(prediction, reference, spacing)
