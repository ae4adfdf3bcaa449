# SPDX-License-Identifier: Apache-2.0
"""Behavior of this bundle alone; test_every_bundle.py has the rest."""

import csv
import json
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser
from torch import nn

from regplugins.losses import DualBranchLoss
from regplugins.networks import GatedDualBranch, load_weights
from regplugins.networks.blocks import average_pool
from regplugins.spatial import pad_to_multiple
from tests.bundles.cases import GATED_GRADIENT, TrainedCase

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case() -> TrainedCase:
    return GATED_GRADIENT


class TestTraining:
    def test_the_papers_recipe(self, bundle, data, train, tmp_path):
        """Its configuration, and steps of another fusion, for the paper's comparison."""
        config = ConfigParser()
        config.read_config([bundle / "configs/train.json", bundle / "configs/paper.json"])
        config.update({"bundle_root": str(bundle), "dataset_dir": str(data), "spacing": 6.0})
        network, objective = (config.get_parsed_content(key) for key in ("network_def", "objective"))
        assert network.fusion == "gated"
        assert not any(isinstance(module, nn.BatchNorm3d) for module in network.modules())
        weights = ("gradient_weight", "regularization_weight", "gradient_regularization_weight")
        assert isinstance(objective, DualBranchLoss) and [getattr(objective, key) for key in weights] == [0.5, 1.0, 0.5]
        names = [type(step).__name__ for step in config.get_parsed_content("train#pair_augmentation").transforms]
        assert names == ["RandFlipd", "RandWarpPaird"]
        assert config.get_parsed_content("pairs_per_epoch") * config.get_parsed_content("max_epochs") == 100_000
        other = {"network_def#fusion": "concat"}
        last = train(tmp_path, "paper", max_epochs=1, pairs_per_epoch=2, batch_size=1, **other)
        assert last["iteration"] == 2
        assert {group["lr"] for group in last["optimizer"]["param_groups"]} == {1e-5}
        load_weights(GatedDualBranch(fusion="concat"), tmp_path / "checkpoints")

    def test_schedule_and_the_choice_of_epochs_by_the_known_warps(self, data, run, train, tmp_path):
        last = train(tmp_path, max_epochs=1)
        schedule, (group,) = last["lr_scheduler"], last["optimizer"]["param_groups"]
        assert schedule["total_steps"] == schedule["last_epoch"] == 2
        assert group["max_lr"] == 0.003
        options = {"dataset_dir": str(data), "output_dir": str(tmp_path / "eval"), "eval_section": "validation"}
        run("train", "evaluate", models_dir=str(tmp_path / "checkpoints"), **options, **GATED_GRADIENT.training)
        summary = json.loads((tmp_path / "eval/summary.json").read_text())
        assert summary["endpoint_error_mean_after"]["mean"] == pytest.approx(-last["best"], rel=1e-4)


class TestEvaluation:
    @pytest.fixture(scope="class")
    def evaluated(self, data, run, tmp_path_factory) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp("eval")
        run("train", "evaluate", dataset_dir=str(data), output_dir=str(folder), init="none")
        return list(csv.DictReader((folder / "metrics.csv").open()))

    def test_errors_before_are_the_lengths_of_the_true_warps(self, data, evaluated):
        pairs = json.loads((data / "datalist.json").read_text())["test"]
        assert [row["name"] for row in evaluated] == [pair["name"] for pair in pairs]
        for row, pair in zip(evaluated, pairs, strict=True):
            warp, mask = (sitk.GetArrayFromImage(sitk.ReadImage(pair[key])) for key in ("truth", "fixed_mask"))
            lengths = np.linalg.norm(warp, axis=-1)[mask > 0]
            assert float(row["endpoint_error_mean_before"]) == pytest.approx(lengths.mean(), rel=1e-4)
            assert float(row["endpoint_error_p95_before"]) == pytest.approx(np.percentile(lengths, 95), rel=1e-4)

    def test_errors_after_are_less(self, evaluated):
        before, after = (
            [float(row[f"endpoint_error_mean_{when}"]) for row in evaluated] for when in ("before", "after")
        )
        assert 0 < np.mean(after) < np.mean(before)

    def test_pairs_with_labels_in_place_of_a_truth(self, data, run, tmp_path):
        run("train", "evaluate", dataset_dir=str(data), output_dir=str(tmp_path), eval_section="labeled", init="none")
        (row,) = csv.DictReader((tmp_path / "metrics.csv").open())
        assert row["endpoint_error_mean_after"] == ""
        assert float(row["dice_mean_after"]) > float(row["dice_mean_before"])
        assert {"dice_1_after", "dice_2_after"} <= row.keys()


class TestInference:
    def test_whole_head_gets_a_warning(self, bundle, aligned, run, warnings_of_ours, tmp_path):
        brain = nib.load(bundle / "sample/fixed.nii.gz")
        values = np.asarray(brain.dataobj).astype(np.float32)
        air = np.abs(np.random.default_rng(0).normal(0, 5, values.shape))
        nib.save(nib.Nifti1Image(np.where(values > 0, values, air), brain.affine), tmp_path / "head.nii.gz")
        pair = {"fixed": str(tmp_path / "head.nii.gz"), "moving": str(bundle / "sample/moving.nii.gz")}
        run("inference", output_dir=str(tmp_path / "out"), init=aligned, spacing=4.0, **pair)
        (message,) = warnings_of_ours()
        assert message.startswith(f"{pair['fixed']}: does not look like a brain without its skull")

    def test_gates_open_and_close(self, bundle):
        """Over the brain of the sample either side of the mean, not one mix of both branches everywhere."""
        config = ConfigParser()
        config.read_config(bundle / "configs/inference.json")
        config.update({"bundle_root": str(bundle)})
        network = config.get_parsed_content("loaded_network").eval()
        (pair,) = config.get_parsed_content("dataset").data
        images = config.get_parsed_content("preprocessing")(pair)["pair"][None]
        gates: list[torch.Tensor] = []
        network.fusion.gate.register_forward_hook(lambda module, _, output: gates.append(output.sigmoid()))
        padded = pad_to_multiple(images, network.stride)
        with torch.no_grad():
            network(padded)
        brain = average_pool(padded[:, 1:], 2, 2)[0, 0] > 0.1
        assert gates[0][0][:, brain].std(dim=1).mean() > 0.05
