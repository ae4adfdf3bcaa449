# SPDX-License-Identifier: Apache-2.0
"""Behavior of this bundle alone; test_every_bundle.py has the rest."""

import json

import pytest
import torch
from monai.bundle import ConfigParser

from regplugins.data import read_datalist
from tests.bundles.cases import DUAL_SUPERVISION, TrainedCase
from tests.bundles.conftest import cause_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case() -> TrainedCase:
    return DUAL_SUPERVISION


class TestTraining:
    @pytest.mark.parametrize("supervision", ["fixed", "moving"])
    def test_other_supervision(self, bundle, supervision):
        config = ConfigParser()
        config.read_config(bundle / "configs/train.json")
        config.update({"supervision": supervision, "similarity_region": "field"})
        objective = config.get_parsed_content("objective").objective
        ((_, reference),) = objective.terms
        assert reference == {"fixed": "fixed", "moving": "fixed_paired"}[supervision]
        assert objective.similarity_region == "field"

    def test_no_such_sequence(self, train, tmp_path):
        assert "(sequences fixed: ['pet'], moving: any)" in cause_of(
            train, tmp_path, max_epochs=1, fixed_sequence="pet"
        )

    def test_patches_as_shipped(self, data, run, tmp_path):
        """With the sizes of ``train.json``, which other tests make smaller."""
        few = {"pairs_per_epoch": 2, "val_pairs": 1, "val_interval": 1, "max_epochs": 1}
        run("train", dataset_dir=str(data), output_dir=str(tmp_path), amp=False, **few)
        assert torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["iteration"] == 2

    def test_the_papers_recipe(self, bundle, data, train, tmp_path):
        """Its configuration, and steps of a narrower network, the warps and the other patients left out."""
        config = ConfigParser()
        config.read_config([bundle / "configs/train.json", bundle / "configs/paper.json"])
        config.update({"bundle_root": str(bundle), "dataset_dir": str(data)})
        network = config.get_parsed_content("network_def")
        assert network.margin == 20 and network.encoder[2][0].out_channels == 128
        names = [type(step).__name__ for step in config.get_parsed_content("train#pair_augmentation").transforms]
        assert names == ["RandFlipd", "RandPatchPaird"]
        assert config.get_parsed_content("pairs_per_epoch") == 225_000
        # Two heads as if they were the shapes of one patient: what lies on each other is not among the pairs.
        sections = {
            section: [record | {"patient": "one"} for record in read_datalist(data / "datalist.json", section)]
            for section in ("training", "validation_images")
        }
        sections["validation_images"] = sections["training"]
        (tmp_path / "datalist.json").write_text(json.dumps(sections))
        small = {"network_def#channels": [4, 4, 4], "patch_shape": [44, 44, 44], "dataset_dir": str(tmp_path)}
        config.update({"dataset_dir": str(tmp_path)})
        records = sections["training"]
        pairs = config.get_parsed_content("train#dataset#pairs")
        assert all(records[fixed]["subject"] != records[moving]["subject"] for fixed, moving, *_ in pairs)
        last = train(tmp_path, "paper", max_epochs=1, **small)
        assert last["iteration"] == 2
        (group,) = last["optimizer"]["param_groups"]
        assert group["lr"] == 0.01 and group["momentum"] == 0
        assert last["lr_scheduler"]["step_size"] == 4 * 2  # four epochs of two steps
        assert last["lr_scheduler"]["gamma"] == 0.5

    def test_partners_stay_aligned(self, bundle, data, tmp_path):
        """One image under the names of two sequences: flips, warps and patches keep it equal to its partner."""
        sections = json.loads((data / "datalist.json").read_text())
        image = sections["training"][0]["image"]
        sections["training"] = [{"image": image, "subject": "one", "sequence": name} for name in ("t1", "t2")]
        (tmp_path / "datalist.json").write_text(json.dumps(sections))
        parser = ConfigParser()
        parser.read_config([bundle / "configs/train.json"])
        parser.update({"bundle_root": str(bundle), "dataset_dir": str(tmp_path), "training_section": "training"})
        parser.update({"train#acquisition": None, "train#remap#prob": 0.0})
        parser.update({"shares": {"identity": 0.0, "warped": 1.0, "between": 0.0}})
        parser.update({key: value for key, value in DUAL_SUPERVISION.training.items() if key in parser})
        dataset = parser.get_parsed_content("train#dataset")
        for index in range(4):
            item = dataset[index]
            assert torch.equal(item["fixed"], item["fixed_paired"])
            assert torch.equal(item["moving"], item["moving_paired"])
            assert not torch.equal(item["fixed"], item["moving"])

    def test_stops_early(self, train, tmp_path):
        """No validation is better than the first."""
        equal = "$lambda output: 1.0"
        last = train(tmp_path, max_epochs=9, pairs_per_epoch=2, val_pairs=1, validation_score=equal, patience=2)
        assert last["epoch"] == 3
        assert last["early_stopping"]["waited"] == 2


class TestPreparation:
    def test_pairs_that_are_not_aligned_become_a_data_set(self, data, run, train, tmp_path):
        """The run mode, and steps of training on what it writes: of a patient with labels in the shapes of both images,
        of one without, who is here for validation, in one.
        """
        labeled, plain = (read_datalist(data / "datalist.json", section)[0] for section in ("labeled", "test"))
        pairs = [
            {"name": "labeled"} | {key: labeled[key] for key in ("fixed", "moving", "fixed_label", "moving_label")},
            {"name": "plain"} | {key: plain[key] for key in ("fixed", "moving")},
        ]
        (tmp_path / "pairs.json").write_text(json.dumps(pairs))
        options = {"modalities": ["t1", "t2"], "spacing": 6.0}
        run("prepare", datalist=str(tmp_path / "pairs.json"), dataset_dir=str(tmp_path / "data"), **options)
        subjects = {
            section: [record["subject"] for record in read_datalist(tmp_path / "data/datalist.json", section)]
            for section in ("training", "validation_images")
        }
        assert subjects == {
            "training": ["labeled", "labeled", "labeled_moving", "labeled_moving"],
            "validation_images": ["plain", "plain"],
        }
        own = {"dataset_dir": str(tmp_path / "data"), "between_patients": False, "training_section": "training"}
        last = train(tmp_path / "output", max_epochs=1, fixed_sequence="t1", moving_sequence="t2", **own)
        assert last["iteration"] == 2

    def test_no_such_pairs(self, run, tmp_path):
        assert "none.json: no such file" in cause_of(
            run, "prepare", datalist=str(tmp_path / "none.json"), dataset_dir=str(tmp_path / "data")
        )
        assert not (tmp_path / "data").exists()
