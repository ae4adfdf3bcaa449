# SPDX-License-Identifier: Apache-2.0
"""Heads and blocks made of tissues: what is bone is bright in a CT and dark in an MR, whatever the seed."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from regplugins.datasets.synthetic_heads import (
    AIR,
    BONE,
    FLUID,
    GRAY,
    MARROW,
    SCALP,
    SOFT,
    TABLE,
    WHITE,
    random_block,
    random_contrast,
    tissue_map,
    write_synthetic_heads,
)
from regplugins.spatial import Grid

SIZE, SPACING = 40, 4.0


def ball(radius: float) -> torch.Tensor:
    """Ball of voxels about the middle."""
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    return (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()[None] <= radius


@pytest.fixture(scope="module")
def tissues() -> torch.Tensor:
    """A head of shells: scalp, soft tissue, bone, gray, white matter, and fluid in the middle."""
    skull = ball(14) & ~ball(12)
    ct = MetaTensor(torch.where(skull, 1000.0, 40.0) * ball(19), affine=torch.eye(4))
    brain = {GRAY: ball(12) & ~ball(9), WHITE: ball(9) & ~ball(4), FLUID: ball(4)}
    return tissue_map(ct, ball(19).int(), 500.0, brain)


@pytest.fixture(scope="module")
def made(tissues, tmp_path_factory) -> tuple[Path, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("made")
    grid = Grid((SIZE,) * 3, torch.diag(torch.tensor([SPACING] * 3 + [1.0], dtype=torch.float64)))
    return folder, write_synthetic_heads(tissues, grid, 6, folder)


def test_a_map_has_every_tissue_where_it_is(tissues):
    middle = tissues[0, SIZE // 2, SIZE // 2, SIZE // 2 :].tolist()
    found = [tissue for tissue, before in zip(middle, [None, *middle], strict=False) if tissue != before]
    assert found == [FLUID, WHITE, GRAY, BONE, SOFT, SCALP, AIR]


def shells(image: np.ndarray, radii: list[float]) -> list[float]:
    """Medians between two radii, mm; the shapes are within a few millimeters of the map's."""
    place = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in image.shape), indexing="ij"))
    distance = 3.0 * np.linalg.norm(place, axis=0)
    return [float(np.median(image[(distance >= a) & (distance < b)])) for a, b in itertools.pairwise(radii)]


def test_bone_is_bright_in_a_ct_and_dark_in_an_mr(made):
    folder, records = made
    orders = set()
    for record in records:
        if "_block_" in record["image"]:
            continue
        image = np.asarray(nib.load(folder / record["image"]).dataobj)
        air, brain = image[:3].mean(), shells(image, [0.0, 30.0])[0]
        profile = shells(image, [float(r) for r in range(30, 75, 3)])
        if record["modality"] == "CT":
            assert max(profile) > brain + 0.1
            assert air < 0.2
            assert 0.4 < brain < 0.6
        else:
            assert min(profile) < 0.5 * max(profile)
            assert air < 0.1
            orders.add(tuple(np.argsort(shells(image, [0.0, 12.0, 30.0, 42.0]))))
    assert len(orders) > 1


def test_bone_of_blocks_is_the_brightest_in_a_ct_and_as_dark_as_air_in_an_mr():
    dark = []
    for seed in range(12):
        random = np.random.default_rng(seed)
        tissues = random_block(random)
        kinds = [kind for kind in (SCALP, SOFT, FLUID, GRAY, WHITE, MARROW) if (tissues == kind).sum() > 100]
        assert len(kinds) > 1
        assert 0.05 < (tissues > AIR).mean() < 0.6
        ct, mr = (random_contrast(tissues, modality, random) for modality in ("CT", "MR"))
        bone = tissues == BONE
        if bone.sum() > 100:
            tissue = [kind for kind in kinds if kind != MARROW]
            assert all(np.median(ct[bone]) > np.median(ct[tissues == kind]) for kind in tissue)
            dark.append(np.median(mr[bone]) / np.median(mr[(tissues > MARROW) & (tissues < TABLE)]))
        table = tissues == TABLE
        assert not table.any() or np.median(mr[table]) < 0.03 < np.median(ct[table]) < 0.45
    # Thin bone takes of its neighbors' brightness.
    assert max(dark) < 1
    assert np.median(dark) < 0.5


def test_thick_bone_has_marrow_within():
    thick = MetaTensor(torch.where(ball(14) & ~ball(9), 1000.0, 40.0) * ball(19), affine=torch.eye(4))
    middle = tissue_map(thick, ball(19).int(), 500.0, {})[0, SIZE // 2, SIZE // 2, SIZE // 2 :].tolist()
    found = [tissue for tissue, before in zip(middle, [None, *middle], strict=False) if tissue != before]
    assert found == [SOFT, BONE, MARROW, BONE, SOFT, SCALP, AIR]


def test_records_and_names(made):
    folder, records = made
    assert [record["modality"] for record in records] == ["CT"] * 12 + ["MR"] * 12
    assert sum("_block_" in record["image"] for record in records) == 12
    assert len({(folder / record["image"]).read_bytes() for record in records}) == 24


def test_a_name_is_its_seed(made, tissues, tmp_path):
    folder, _records = made
    grid = Grid((SIZE,) * 3, torch.diag(torch.tensor([SPACING] * 3 + [1.0], dtype=torch.float64)))
    for record in write_synthetic_heads(tissues, grid, 1, tmp_path):
        ours, theirs = (nib.load(place / record["image"]).get_fdata() for place in (tmp_path, folder))
        np.testing.assert_array_equal(ours, theirs)
