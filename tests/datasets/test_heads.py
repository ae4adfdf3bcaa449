# SPDX-License-Identifier: Apache-2.0
"""Moved heads, with ITK as the judge of their truth."""

import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from regplugins.data import read_datalist
from regplugins.datasets import heads, prepare_heads
from regplugins.io import read_transform, write_image
from tests.itk_truth import make_grid
from tests.registration.heads import ct, head

GRID = make_grid((48, 56, 48), np.diag([-1.0, 1, 1]), (4.0, 4.0, 4.0), (6.0, -9.0, 12.0))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Templates that are all one image, so that what the truth brings together looks alike."""
    source = tmp_path_factory.mktemp("source")
    names = {name for section in heads.MODALITIES.values() for images in section.values() for name in images}
    templates = ("t1", "t2", "pd", "ct", "csf", "grey", "white")
    for name in names | {f"templates/{name}" for name in templates}:
        (source / name).parent.mkdir(exist_ok=True)
        write_image(head(ct, GRID) + 1000, GRID, source / f"{name}.nii.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "SPACING", 4.0)
        patch.setattr(heads, "ROOM", 66)
        patch.setattr(heads, "PAIRS", 3)
        patch.setattr(heads, "VALIDATION_PAIRS", 3)
        patch.setattr(heads, "SYNTHETIC", 2)
        return read_all(prepare_heads(source, tmp_path_factory.mktemp("target")))


def read_all(datalist):
    return {section: read_datalist(datalist, section) for section in json.loads(datalist.read_text())}


@pytest.mark.parametrize(("section", "degrees"), [("test_15", 15), ("test_45", 45), ("validation_90", 90)])
def test_truth_brings_the_moving_image_to_the_fixed_one(prepared, section, degrees):
    turned = []
    for record in prepared[section]:
        fixed, moving = (sitk.ReadImage(record[key], sitk.sitkFloat64) for key in ("fixed", "moving"))
        mask = sitk.GetArrayFromImage(sitk.ReadImage(record["fixed_mask"])) > 0
        resampled = sitk.Resample(moving, fixed, sitk.ReadTransform(record["truth"]), sitk.sitkLinear, 0.0)
        a, b = (sitk.GetArrayFromImage(image)[mask] for image in (fixed, resampled))
        assert np.corrcoef(a, b)[0, 1] > 0.97
        rotation = read_transform(record["truth"]).matrix[:3, :3]
        turned.append(math.degrees(Rotation.from_matrix(rotation.numpy()).magnitude()))
    assert max(turned) <= degrees
    assert max(turned) > degrees / 4


def test_the_mask_is_the_head(prepared):
    record = prepared["validation_15"][0]
    mask, fixed = (sitk.GetArrayFromImage(sitk.ReadImage(record[key])) for key in ("fixed_mask", "fixed"))
    assert 0.05 < mask.mean() < 0.6
    assert fixed[mask > 0].mean() > 5 * fixed[mask == 0].mean()


def test_no_head_is_on_two_sides(prepared):
    sides = [{record["image"] for record in prepared[section]} for section in heads.MODALITIES]
    assert sum(map(len, sides)) == len(set().union(*sides))
    assert {record["modality"] for record in prepared["modality_test"]} == {"CT", "MR"}


def test_synthetic_heads_train(prepared):
    made = [record for record in prepared["modality_training"] if "/made/" in record["image"]]
    assert [record["modality"] for record in made] == ["CT"] * 4 + ["MR"] * 4
    assert len(prepared["modality_training"]) > len(made)


def test_folder_is_missing(tmp_path):
    (tmp_path / "templates").mkdir()
    with pytest.raises(FileNotFoundError, match="heads: no such folder"):
        prepare_heads(tmp_path, tmp_path / "target")


def test_image_is_missing(tmp_path):
    for name in ("templates", "heads", "head_ct_mr_phantom"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match=r"t1.nii.gz: no such file"):
        prepare_heads(tmp_path, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_head_mask_has_no_holes():
    values = torch.zeros(1, 20, 20, 20)
    values[:, 4:16, 4:16, 4:16] = 1000.0
    values[:, 8:12, 8:12, 8:12] = 0.0
    assert heads.head_mask(MetaTensor(values)).sum() == 12**3
