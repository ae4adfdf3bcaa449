# SPDX-License-Identifier: Apache-2.0
"""Pairs that are not aligned become subjects that are, by transforms that other tools can follow."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regplugins.data import PairDataset, RandomWarp, paired_modalities, read_datalist
from regplugins.datasets import prepare_aligned_pairs
from regplugins.io import load_image, load_label, write_image
from regplugins.spatial import AffineTransform, Grid, resample, resample_labels


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two "patients": warped organs, each scanned as "CT" and, elsewhere and a little deformed, as "MR"."""
    folder = tmp_path_factory.mktemp("source")
    axes = torch.diag(torch.tensor([2.5, 2.5, 2.5, 1.0], dtype=torch.float64))
    grid = Grid((44, 40, 32), axes)
    points = grid.coordinates() - grid.center
    radii = torch.tensor([44.0, 40.0, 32.0], dtype=torch.float64)
    body = (points / radii).norm(dim=-1) < 1
    organs = {1: ([-14.0, 6.0, 0.0], 11.0), 2: ([14.0, -8.0, 4.0], 13.0), 3: ([4.0, 18.0, -8.0], 9.0)}
    label = torch.zeros(grid.shape, dtype=torch.int32)
    for value, (center, radius) in organs.items():
        label[(points - torch.tensor(center, dtype=torch.float64)).norm(dim=-1) < radius] = value
    texture = torch.sin(points / 9.0).sum(dim=-1).float()
    contrasts = {
        "ct": torch.tensor([0.4, 0.8, 0.6, 0.5]),
        "mr": torch.tensor([0.5, 0.2, 0.9, 0.7]),
    }
    records = []
    for number in range(2):
        patient = RandomWarp(4.0, (30.0, 50.0), 5.0, 3.0, 0.04).set_random_state(seed=number)(grid).sample(grid)
        filling = RandomWarp(5.0, (24.0, 30.0), 0.0, 0.0, 0.0).set_random_state(seed=10 + number)(grid).sample(grid)
        place = AffineTransform(torch.tensor([[1.0, 0, 0, 6], [0, 1, 0, -9], [0, 0, 1, 4], [0, 0, 0, 1]]).double())
        record: dict[str, Any] = {"name": f"patient{number}"}
        for side, modality, way in (("fixed", "ct", patient), ("moving", "mr", patient @ filling @ place)):
            values = (contrasts[modality][label] + 0.05 * texture) * body
            paths = {key: folder / f"{number}_{modality}_{key}.nii.gz" for key in ("image", "label")}
            write_image(resample(values[None].float(), grid, grid, way), grid, paths["image"])
            write_image(resample_labels(label[None], grid, grid, way), grid, paths["label"], np.uint8)
            record |= {side: str(paths["image"]), f"{side}_label": str(paths["label"])}
        records.append(record)
    (folder / "pairs.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def prepared(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_aligned_pairs(source / "pairs.json", tmp_path_factory.mktemp("target") / "new")


@pytest.mark.slow
class TestAlignedPairs:
    def test_labels_come_together_step_by_step(self, source, prepared):
        for number in range(2):
            dice = json.loads((prepared.parent / f"patient{number}/alignment.json").read_text())["dice"]
            assert dice["scanned"] < dice["affine"] < dice["labels"]
            assert min(dice["labels"], dice["labels_moving"]) > 0.93

    def test_simpleitk_finds_the_same_by_the_transform_files(self, source, prepared):
        """The chain from the common world through the fixed one's to the moving image."""
        for number in range(2):
            folder = prepared.parent / f"patient{number}"
            chain = sitk.CompositeTransform(3)
            field = sitk.ReadImage(str(folder / "aligned_1Warp.nii.gz"), sitk.sitkVectorFloat64)
            chain.AddTransform(sitk.ReadTransform(str(folder / "aligned_0GenericAffine.mat")))
            chain.AddTransform(sitk.DisplacementFieldTransform(field))
            chain.AddTransform(sitk.ReadTransform(str(folder / "common_0GenericAffine.mat")))
            result = sitk.ReadImage(str(folder / "mr.nii.gz"))
            moving = sitk.ReadImage(str(source / f"{number}_mr_image.nii.gz"))
            theirs = sitk.GetArrayFromImage(sitk.Resample(moving, result, chain, sitk.sitkLinear))
            ours = sitk.GetArrayFromImage(result)
            inner = (slice(6, -6),) * 3  # ours continues the border
            assert np.abs(ours - theirs)[inner].mean() < 1e-3

    def test_the_first_patients_fixed_image_stays_where_it_is(self, source, prepared):
        ours, original = load_image(prepared.parent / "patient0/ct.nii.gz"), load_image(source / "0_ct_image.nii.gz")
        torch.testing.assert_close(ours.as_tensor(), original.as_tensor())
        assert Grid.from_image(ours).matches(Grid.from_image(original))

    def test_a_data_set_for_training_comes_out(self, prepared):
        records = read_datalist(prepared, "training")
        assert [(r["subject"], r["sequence"]) for r in records] == [
            (subject, modality) for subject in ("patient0", "patient0_moving") for modality in ("ct", "mr")
        ]
        assert {r["patient"] for r in read_datalist(prepared, "validation_images")} == {"patient1"}
        dataset = PairDataset(
            records, lambda r: {"image": load_image(r["image"]).as_tensor()}, pairs=paired_modalities(records)
        )
        shapes = {tuple(value.shape) for value in dataset[0].values()}
        assert len(dataset) == 2 * 2 * 2 and len(shapes) == 1

    def test_simpleitk_finds_the_moving_images_shape(self, source, prepared):
        """The moving image by the affine files alone, the fixed one by the demons' field, inverted as ours is."""
        for number in range(2):
            folder = prepared.parent / f"patient{number}"
            field, inverse = (
                sitk.ReadImage(str(folder / f"aligned_1{name}.nii.gz"), sitk.sitkVectorFloat64)
                for name in ("Warp", "InverseWarp")
            )
            theirs = sitk.InvertDisplacementField(field, maximumNumberOfIterations=100)
            inner = (slice(6, -6),) * 3
            difference = sitk.GetArrayFromImage(inverse) - sitk.GetArrayFromImage(theirs)
            assert np.abs(difference)[inner].mean() < 0.02  # mm
            common, aligned = (
                sitk.ReadTransform(str(folder / f"{name}_0GenericAffine.mat")) for name in ("common", "aligned")
            )
            for modality, first in (("ct", sitk.DisplacementFieldTransform(inverse)), ("mr", aligned)):
                result = sitk.ReadImage(str(folder / f"moving/{modality}.nii.gz"))
                image = sitk.ReadImage(str(source / f"{number}_{modality}_image.nii.gz"))
                chain = sitk.CompositeTransform([first, common])
                theirs = sitk.GetArrayFromImage(sitk.Resample(image, result, chain, sitk.sitkLinear))
                other = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{modality}.nii.gz")))
                ours = sitk.GetArrayFromImage(result)
                assert np.abs(ours - theirs)[inner].mean() < 1e-3  # ours continues the border
                assert np.abs(other - theirs)[inner].mean() > 5e-3

    def test_without_labels_there_is_the_affine_transform_alone(self, source, tmp_path):
        records = json.loads((source / "pairs.json").read_text())[:1]
        plain = [{key: record[key] for key in ("name", "fixed", "moving")} for record in records]
        (tmp_path / "pairs.json").write_text(json.dumps(plain))
        prepare_aligned_pairs(tmp_path / "pairs.json", tmp_path / "out", validation=0, spacing=5.0)
        files = {path.name for path in (tmp_path / "out/patient0").iterdir()}
        assert [r["subject"] for r in read_datalist(tmp_path / "out/datalist.json", "training")] == ["patient0"] * 2
        assert files == {"ct.nii.gz", "mr.nii.gz", "aligned_0GenericAffine.mat", "common_0GenericAffine.mat"}
        assert Grid.from_image(load_image(tmp_path / "out/patient0/mr.nii.gz")).spacing.tolist() == [5.0] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ["ct"]}, "modalities must be two names"),
        ({"modalities": ["ct", "ct"]}, "modalities must be two names"),
        ({"modalities": "ct"}, "modalities must be two names.* got 'ct'"),
        ({"modalities": 5}, "modalities must be two names"),
        ({"modalities": ["ct/a", "mr"]}, "modalities must be two names"),
        ({"modalities": ["", "mr"]}, "modalities must be two names"),
        ({"validation": 0.5}, "validation must be a whole number of at least 0, got 0.5"),
        ({"validation": True}, "validation must be a whole number"),
        ({"validation": 2}, "2 subjects less 2 to validate on leave none to train on"),
    ],
)
def test_bad_options(source, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_aligned_pairs(source / "pairs.json", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_two_patients_that_would_be_one_subject(source, tmp_path):
    records = json.loads((source / "pairs.json").read_text())[:2]
    records[1]["name"] = "patient0_moving"
    (tmp_path / "pairs.json").write_text(json.dumps(records))
    with pytest.raises(ValueError, match="'patient0_moving' is what 'patient0' in its moving image's shape is called"):
        prepare_aligned_pairs(tmp_path / "pairs.json", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_input_is_not_overwritten(source, tmp_path):
    records = json.loads((source / "pairs.json").read_text())[:1]
    (tmp_path / "patient0").mkdir()
    path = tmp_path / "patient0/ct.nii.gz"
    path.write_bytes(Path(records[0]["fixed"]).read_bytes())
    content = path.read_bytes()
    (tmp_path / "pairs.json").write_text(json.dumps([records[0] | {"fixed": str(path)}]))
    with pytest.raises(ValueError, match="is an input and would be overwritten"):
        prepare_aligned_pairs(tmp_path / "pairs.json", tmp_path, validation=0)
    assert path.read_bytes() == content


def test_errors_name_the_subject(source, tmp_path):
    records = json.loads((source / "pairs.json").read_text())[:1]
    blank = load_label(records[0]["moving_label"])
    path = tmp_path / "blank.nii.gz"
    write_image(torch.zeros_like(blank.as_tensor()), Grid.from_image(blank), path, np.uint8)
    (tmp_path / "pairs.json").write_text(json.dumps([records[0] | {"moving_label": str(path)}]))
    with pytest.raises(ValueError, match="subject 'patient0': the two label maps have no structure in common"):
        prepare_aligned_pairs(tmp_path / "pairs.json", tmp_path / "out", validation=0)
    assert not (tmp_path / "out/datalist.json").exists()
