# SPDX-License-Identifier: Apache-2.0
"""A limb made of coaxial cylinders; labels are judged by its formula."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from regplugins.data import read_datalist
from regplugins.datasets import limbs
from regplugins.datasets.limbs import BONE, FAT, MUSCLE, limb_tissues, prepare_limbs
from regplugins.io import load_label, read_displacement, write_image
from regplugins.spatial import Grid

GRID = Grid((34, 34, 20), torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64)))
# mm: of marrow, bone, muscle and fat.
RADII = (5.0, 11.0, 22.0, 29.0)


def radius(points: Tensor) -> Tensor:
    return (points - GRID.center)[..., :2].norm(dim=-1)


def layers(points: Tensor, values: tuple[float, ...]) -> Tensor:
    """A value for each of marrow, bone, muscle, fat and air at points ``(..., 3)``, ``(1, ...)``."""
    layer = torch.bucketize(radius(points), torch.tensor(RADII, dtype=torch.float64))
    return torch.tensor(values)[layer][None]


def truth(points: Tensor) -> Tensor:
    return layers(points, (BONE, BONE, MUSCLE, FAT, 0))


def write_patient(folder: Path, subject: str) -> None:
    points = GRID.coordinates()
    for name, values in (("ct", (-50, 900, 60, -100, -1000)), ("mr", (800, 20, 300, 900, 0))):
        write_image(layers(points, values), GRID, folder / f"{subject}_{name}.nii.gz", np.int16)
    # Cortical bone is as dark as air in an MR, and so no part of its body.
    write_image(layers(points, (1, 0, 1, 1, 0)), GRID, folder / f"{subject}_mask.nii.gz", np.uint8)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, cases in (("TRAINING", (1, 2)), ("VALIDATION", (3,)), ("TEST", (4,))):
        monkeypatch.setattr(limbs, f"{name}_CASES", cases)
    folder = tmp_path / "source"
    folder.mkdir()
    for case in range(1, 5):
        write_patient(folder, f"STS_{case:03d}")
    return folder


def test_tissues_of_a_noisy_ct() -> None:
    points = GRID.coordinates()
    noise = 25 * torch.randn((1, *GRID.shape), generator=torch.Generator().manual_seed(0))
    ct = layers(points, (-50.0, 900.0, 60.0, -100.0, -1000.0)) + noise
    ct[0, 3:5, 3:5, 3:5] = 500  # a clip on the skin, smaller than any bone
    body = layers(points, (1, 0, 1, 1, 0))
    found = limb_tissues(MetaTensor(ct, affine=GRID.affine), MetaTensor(body, affine=GRID.affine))
    assert (found == truth(points)).float().mean() > 0.98
    assert not found[0, 3:5, 3:5, 3:5].any()


def test_pairs_in_both_orders_with_the_labels_of_the_warped_limb(source: Path, tmp_path: Path) -> None:
    path = prepare_limbs(source, tmp_path / "data")
    for section in ("validation", "test"):
        records = read_datalist(path, section)
        assert len(records) == 6
        for number, record in enumerate(records):
            fixed, moving = (np.asanyarray(nib.load(record[key]).dataobj) for key in ("fixed", "moving"))
            assert (fixed.min() < -500) == (number % 2 == 0)
            assert (moving.min() < -500) == (number % 2 == 1)
            points = GRID.coordinates()
            warp = read_displacement(record["truth"])
            inside = torch.from_numpy(np.asanyarray(nib.load(record["fixed_mask"]).dataobj) > 0)
            for key, where in (("fixed_label", warp(points)), ("moving_label", points)):
                agree = load_label(record[key]) == truth(where)
                assert agree[0][inside].float().mean() > 0.9
            seen = GRID.contains(warp(points))
            assert (inside == (truth(warp(points))[0] > 0))[seen].float().mean() > 0.95


def test_every_patient_is_in_one_section(source: Path, tmp_path: Path) -> None:
    sections = json.loads(prepare_limbs(source, tmp_path / "data").read_text())
    subjects = {name: {r["subject"] for r in sections[name]} for name in sections if "subject" in sections[name][0]}
    assert subjects == {
        "training": {"STS_001", "STS_002"},
        "validation_images": {"STS_003"},
        "test_images": {"STS_004"},
    }
    assert {record["sequence"] for record in sections["training"]} == {"ct", "mr"}


def test_no_patient_chooses_and_tests() -> None:
    sections = [set(cases) for cases in (limbs.TRAINING_CASES, limbs.VALIDATION_CASES, limbs.TEST_CASES)]
    assert len(set.union(*sections)) == sum(map(len, sections)) == 20


def test_a_missing_image_is_named(source: Path, tmp_path: Path) -> None:
    (source / "STS_004_mr.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"STS_004_mr\.nii\.gz"):
        prepare_limbs(source, tmp_path / "data")
