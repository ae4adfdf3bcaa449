# SPDX-License-Identifier: Apache-2.0
"""Everything about this bundle: it gives a class, no transform, and has nothing in common with the others."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch

from regplugins.networks import ModalityCNN, load_weights
from regplugins.networks.rigid_cnn import Trunk
from tests.bundles.conftest import ROOT, cause_of, run_bundle, unset_properties

pytestmark = pytest.mark.slow

FEW = {"images_per_epoch": 4, "batch_size": 2, "val_images": 4, "max_epochs": 2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    name = "head_ct_mr_modality"
    return shutil.copytree(ROOT / "bundles" / name, tmp_path_factory.mktemp("bundles") / name)


@pytest.fixture(scope="module")
def data(bundle, tmp_path_factory) -> Path:
    """The sample's two heads for everything."""
    folder = tmp_path_factory.mktemp("data")
    heads = [
        {"image": str(bundle / f"sample/{name}.nii.gz"), "modality": modality}
        for name, modality in (("fixed", "MR"), ("moving", "CT"))
    ]
    sections = {f"modality_{section}": heads for section in ("training", "validation", "test")}
    (folder / "datalist.json").write_text(json.dumps(sections))
    return folder


@pytest.fixture
def found(bundle, tmp_path) -> Callable[..., dict[str, tuple[str, float]]]:
    """Rows of ``inference.json``'s table, by image name."""

    def call(**options: object) -> dict[str, tuple[str, float]]:
        run_bundle(bundle, "inference", output_dir=str(tmp_path / "out"), **options)
        rows = csv.DictReader((tmp_path / "out/summary.csv").open())
        return {row["name"]: (row["found"], float(row["probability"])) for row in rows}

    return call


class TestInference:
    def test_sample(self, found):
        answers = found()
        assert {name: modality for name, (modality, _) in answers.items()} == {
            "fixed.nii.gz": "MR",
            "moving.nii.gz": "CT",
        }
        assert all(0.5 < probability <= 1 for _, probability in answers.values())

    @pytest.mark.parametrize(
        "change", [lambda image: 7 * image + 300, lambda image: image.max() - image], ids=["scale", "inversion"]
    )
    def test_scale_and_sign_do_not_decide(self, bundle, found, tmp_path, change):
        images = []
        for name in ("fixed", "moving"):
            image = nib.load(bundle / f"sample/{name}.nii.gz")
            nib.save(
                nib.Nifti1Image(change(image.get_fdata()).astype(np.float32), image.affine), tmp_path / f"{name}.nii"
            )
            images.append({"image": f"{name}.nii", "name": name})
        (tmp_path / "images.json").write_text(json.dumps(images))
        answers = found(datalist=str(tmp_path / "images.json"))
        assert answers["fixed"][0] == "MR"
        assert answers["moving"][0] == "CT"

    def test_one_image_turned_and_cropped(self, bundle, found, tmp_path):
        image = nib.as_closest_canonical(nib.load(bundle / "sample/moving.nii.gz")).slicer[::-1, :, 4:]
        nib.save(
            nib.Nifti1Image(image.dataobj[:].transpose(2, 0, 1), image.affine[:, [2, 0, 1, 3]]),
            tmp_path / "turned.nii.gz",
        )
        assert found(image=str(tmp_path / "turned.nii.gz"))["turned.nii.gz"][0] == "CT"


class TestBadInput:
    def test_image_that_is_none(self, bundle, tmp_path):
        array = np.arange(64, dtype=np.float32).reshape(8, 8)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "image.nii.gz")
        cause = cause_of(
            run_bundle, bundle, "inference", output_dir=str(tmp_path / "o"), image=str(tmp_path / "image.nii.gz")
        )
        assert "expected a 3-D image" in cause
        assert "image.nii.gz" in cause
        assert not (tmp_path / "o").exists()

    def test_unknown_class(self, bundle, data, tmp_path):
        records = json.loads((data / "datalist.json").read_text())
        records["modality_training"][0]["modality"] = "PET"
        (tmp_path / "datalist.json").write_text(json.dumps(records))
        assert "modality is PET, expected one of ['MR', 'CT']" in cause_of(
            run_bundle, bundle, "train", dataset_dir=str(tmp_path), output_dir=str(tmp_path / "o"), **FEW
        )


class TestTraining:
    def test_the_papers_recipe(self, bundle, data, tmp_path):
        few = FEW | {"max_epochs": 1, "spacing": [8.0, 8.0, 16.0], "network_shape": [32, 32, 16]}
        run_bundle(bundle, "train", "paper", dataset_dir=str(data), output_dir=str(tmp_path), **few)
        load_weights(ModalityCNN(trunk=Trunk()), tmp_path / "checkpoints")
        last = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)
        (group,) = last["optimizer"]["param_groups"]
        assert (group["lr"], group["momentum"]) == (0.001, 0.9)
        assert last["lr_scheduler"]["milestones"] == {20 * 2: 1}  # twenty epochs of two steps

    def test_evaluation_counts(self, bundle, data, tmp_path):
        """The sample's heads in random windows, half of them turned dark for bright."""
        run_bundle(bundle, "train", "evaluate", dataset_dir=str(data), output_dir=str(tmp_path), val_images=10)
        rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
        summary = json.loads((tmp_path / "summary.json").read_text())
        right = sum(row["true"] == row["found"] for row in rows)
        assert summary["n"] == len(rows) == 10
        assert summary["accuracy"] == right / 10
        assert right >= 9

    @pytest.mark.parametrize("kind", ["train", "inference"])
    def test_all_of_monais_properties(self, bundle, data, tmp_path, kind):
        options = {"dataset_dir": str(data), **FEW} if kind == "train" else {}
        assert unset_properties(bundle, kind, output_dir=str(tmp_path), **options) == []


def test_export_computes_the_same(bundle, tmp_path):
    monai.bundle.ckpt_export(
        net_id="network_def",
        meta_file=str(bundle / "configs/metadata.json"),
        config_file=str(bundle / "configs/inference.json"),
        ckpt_file=str(bundle / "models/model.pt"),
        filepath=str(tmp_path / "model.ts"),
    )
    image = torch.rand(1, 1, 40, 44, 40)
    expected = load_weights(ModalityCNN(), bundle / "models").eval()(image)
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts").eval()(image), expected)
