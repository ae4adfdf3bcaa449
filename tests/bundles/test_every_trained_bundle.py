# SPDX-License-Identifier: Apache-2.0
"""Behavior of bundles with a network: training, evaluation, refinement, export."""

import csv
import json
import operator
import re
import shutil
import sys
import types
from functools import cache
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser

from regplugins.io import load_image, read_chain
from regplugins.networks import load_weights
from regplugins.spatial import Grid
from tests.bundles.cases import DUAL_SUPERVISION, FIRE, GATED_GRADIENT, HEADS, HIPPOCAMPUS, LIMBS, TRAINED, TrainedCase
from tests.bundles.conftest import cause_of, unset_properties

pytestmark = pytest.mark.slow

# Weights of another bundle's network, which tells CT from MR.
SHARED = {"modality"}


NAME = operator.attrgetter("name")


@pytest.fixture(scope="module", params=TRAINED, ids=NAME)
def case(request: pytest.FixtureRequest) -> TrainedCase:
    return request.param


class TestTraining:
    def test_every_parameter_learns_and_the_best_network_is_a_plain_state_dict(self, case, bundle, train, tmp_path):
        last = train(tmp_path, max_epochs=1)
        parser = ConfigParser()
        parser.read_config(bundle / "configs/train.json")
        parser.update({key: value for key, value in case.training.items() if key.startswith("network_def")})
        network = parser.get_parsed_content("network_def")
        network.load_state_dict(torch.load(tmp_path / "checkpoints/model.pt", weights_only=True))
        assert list(tmp_path.glob("events.out.tfevents.*"))
        # Adam keeps moments of what had a derivative, which DistributedDataParallel wants of every parameter.
        optimizer = last["optimizer"]
        assert set(optimizer["state"]) == {index for group in optimizer["param_groups"] for index in group["params"]}

    @pytest.mark.parametrize("case", [HIPPOCAMPUS, HEADS], ids=NAME, indirect=True)
    def test_all_of_monais_properties(self, case, bundle, data, tmp_path):
        folders = {"dataset_dir": str(data), "output_dir": str(tmp_path)}
        assert unset_properties(bundle, "train", **folders, **case.training) == []


@pytest.mark.parametrize("case", [HIPPOCAMPUS, DUAL_SUPERVISION, FIRE], ids=NAME, indirect=True)
class TestPasses:
    """Passes of whole volumes, of tiles, and of a network with passes of its own."""

    def test_of_training(self, bundle):
        parser = ConfigParser()
        parser.read_config(bundle / "configs/train.json")
        parser.update({"bundle_root": str(bundle), "train_passes": 2})
        assert parser.get_parsed_content("training_network").passes == 2

    def test_another_number_changes_the_transform_and_is_reported(self, registered, aligned, run, tmp_path):
        passes = json.loads((registered / "report.json").read_text())["settings"]["passes"] + 1
        run("inference", output_dir=str(tmp_path), init=aligned, passes=passes)
        assert json.loads((tmp_path / "report.json").read_text())["settings"]["passes"] == passes
        one, other = (nib.load(folder / "transform_1Warp.nii.gz").get_fdata() for folder in (registered, tmp_path))
        assert np.abs(one - other).max() > 0.1  # mm


@pytest.mark.parametrize("case", [HIPPOCAMPUS, DUAL_SUPERVISION, LIMBS, FIRE], ids=NAME, indirect=True)
def test_evaluation_writes_a_row_a_pair(case, run, data, tmp_path):
    evaluated(case, run, data, tmp_path)


def evaluated(case, run, data, tmp_path, *overlays, **overrides):
    """Evaluate, and hold the summary against the rows and the rows against those before."""
    options = {**case.evaluation, **overrides}
    run("train", "evaluate", *overlays, dataset_dir=str(data), output_dir=str(tmp_path), **options)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    summary = json.loads((tmp_path / "summary.json").read_text())
    before, after = (f"{case.score}_{when}" for when in ("before", "after"))
    scores = [float(row[after]) for row in rows]
    assert summary[after] == {
        "n": 2,
        "mean": pytest.approx(np.mean(scores)),
        "sd": pytest.approx(np.std(scores, ddof=1)),
    }
    assert case.better(summary[after]["mean"], summary[before]["mean"])


class TestRefinement:
    @pytest.mark.parametrize("case", [HIPPOCAMPUS, FIRE], ids=NAME, indirect=True)
    def test_evaluation_after_two_passes(self, case, run, data, tmp_path):
        evaluated(case, run, data, tmp_path, "refine", levels=[[case.coarse, 20]], passes=2)

    @pytest.mark.parametrize("case", [HIPPOCAMPUS, GATED_GRADIENT, DUAL_SUPERVISION, FIRE], ids=NAME, indirect=True)
    def test_refined_scores_better_on_what_was_optimized_and_does_not_fold(
        self, case, bundle, registered, aligned, run, tmp_path
    ):
        fixed = load_image(bundle / "sample/fixed.nii.gz").as_tensor()[None]

        def dissimilarity(folder: Path) -> float:
            return float(case.dissimilarity(load_image(folder / "warped.nii.gz").as_tensor()[None], fixed))

        levels = [[min(2.0, json.loads((registered / "report.json").read_text())["settings"]["spacing"]), 10]]
        changes = {"levels": levels, "parametrization#step": 0.26}
        run("inference", "refine", output_dir=str(tmp_path), init=aligned, **changes)
        assert dissimilarity(tmp_path) < dissimilarity(registered) - case.lowered
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["folding_percent"] < 0.5
        assert report["settings"]["refine"] == "field" and report["settings"]["levels"] == levels
        assert "step=0.26" in report["settings"]["parametrization"]

    @pytest.mark.parametrize("case", [HIPPOCAMPUS, GATED_GRADIENT], ids=NAME, indirect=True)
    def test_refinement_uses_the_training_objective(self, case, bundle):
        """Both give one number for one field, but for how much they ask of its smoothness.

        The training objective of the other bundles wants images that a pair to register lacks.
        """

        def parsed(*names: str) -> ConfigParser:
            parser = ConfigParser()
            parser.read_config([str(bundle / f"configs/{name}.json") for name in names])
            parser["bundle_root"] = str(bundle)
            return parser

        trainer, refiner = parsed("train"), parsed("inference", "refine")
        refiner["regularization_weight"] = trainer["regularization_weight"]
        training = trainer.get_parsed_content("image_objective" if "image_objective" in trainer else "objective")
        refining = refiner.get_parsed_content("inferer").optimizer.objective
        images = {key: torch.rand(1, 1, 16, 18, 20) for key in ("moving", "fixed")}
        ddf = torch.randn(1, 3, 16, 18, 20)
        torch.testing.assert_close(refining([ddf], images), training([ddf], images), rtol=1e-5, atol=0)


@pytest.fixture(scope="session")
def export(bundle_of, tmp_path_factory):
    """The commands ``ckpt_export`` and ``onnx_export``, by the ending of the file; each export is made once."""

    @cache
    def call(case: TrainedCase, ending: str, shape: tuple[int, ...] | None) -> Path:
        path = tmp_path_factory.mktemp("exported") / f"model{ending}"
        command = monai.bundle.ckpt_export if ending == ".ts" else monai.bundle.onnx_export
        command(
            net_id="network_def",
            meta_file=str(bundle_of(case) / "configs/metadata.json"),
            config_file=str(bundle_of(case) / "configs/inference.json"),
            ckpt_file=str(bundle_of(case) / "models/model.pt"),
            filepath=str(path),
            **({"input_shape": list(shape)} if shape else {}),
        )
        return path

    return call


class TestWeights:
    def test_every_file_is_of_the_network_with_its_options(self, case, bundle):
        names = {path.stem.removeprefix("model_") for path in (bundle / "models").glob("model_*.pt")}
        assert names - SHARED == set(case.variants)
        definition = ConfigParser.load_config_file(bundle / "configs/inference.json")["network_def"]
        load_weights(case.network(), bundle / "models")
        for name, part in case.variants.items():
            load_weights(ConfigParser(definition | part).get_parsed_content(), bundle / "models", name)

    @pytest.mark.parametrize("case", [GATED_GRADIENT, LIMBS, FIRE], ids=NAME, indirect=True)
    def test_exports_compute_the_same(self, case, bundle, export):
        """Exports of the other networks register the sample, below."""
        pair = torch.rand(1, 2, *case.export_shape)
        expected = load_weights(case.network(), bundle / "models").eval()(pair).detach()
        script = torch.jit.load(export(case, ".ts", None)).eval()
        torch.testing.assert_close(script(pair), expected, rtol=1e-4, atol=1e-4)
        session = onnxruntime.InferenceSession(export(case, ".onnx", tuple(pair.shape)))
        (result,) = session.run(None, {session.get_inputs()[0].name: pair.numpy()})
        np.testing.assert_allclose(result, expected.numpy(), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("case", [HIPPOCAMPUS, FIRE], ids=NAME, indirect=True)
    def test_tensorrt_overlay(self, case, run, bundle, export, tmp_path, monkeypatch):
        """Its file in the place of the weights. What TensorRT makes of the network is for a machine with a GPU."""
        with pytest.raises(Exception, match="torch_tensorrt"):
            run("inference", "inference_trt", device="cpu")
        present = types.ModuleType("torch_tensorrt")
        present.__version__ = "stands for it"
        monkeypatch.setitem(sys.modules, "torch_tensorrt", present)
        shutil.copy(export(case, ".ts", None), tmp_path / "model_trt.ts")
        configs = [bundle / f"configs/{name}.json" for name in ("inference", "inference_trt")]
        parser = ConfigParser(ConfigParser.load_config_files(configs) | {"models_dir": str(tmp_path), "device": "cpu"})
        assert isinstance(parser.get_parsed_content("network"), torch.jit.ScriptModule)

    @pytest.mark.parametrize(
        "case", [HIPPOCAMPUS, DUAL_SUPERVISION, HEADS], ids=["whole volumes", "tiles", "rigid"], indirect=True
    )
    def test_exported_files_register_the_sample(self, case, aligned, run, export, tmp_path):
        """As the weights themselves do; ONNX once it is exported for the size that its error names."""

        def displacement(name: str, **options: object) -> np.ndarray:
            folder = tmp_path / name
            run("inference", init=aligned, output_dir=str(folder), **options)
            whole = read_chain([folder / "transform_1Warp.nii.gz", folder / "transform_0GenericAffine.mat"])
            return whole.sample(Grid.from_image(load_image(folder / "warped.nii.gz"))).vectors.numpy()

        expected = displacement("own")
        script = displacement("script", weights=str(export(case, ".ts", None)))
        np.testing.assert_allclose(script, expected, atol=0.01)  # mm
        wanted = re.search(
            r"--input_shape '(.*)'",
            cause_of(displacement, "small", weights=str(export(case, ".onnx", (1, 2, *case.export_shape)))),
        )
        onnx = displacement("onnx", weights=str(export(case, ".onnx", tuple(json.loads(wanted[1])))))
        np.testing.assert_allclose(onnx, expected, atol=0.01)
        assert (tmp_path / "onnx/report.json").read_text().count("model.onnx") == 1
