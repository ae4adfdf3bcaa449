# SPDX-License-Identifier: Apache-2.0
"""Behavior that all bundles share, on the one that runs fastest; test_bundles.py compares their configurations."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.bundles.cases import HIPPOCAMPUS, TrainedCase
from tests.bundles.conftest import cause_of

pytestmark = pytest.mark.slow

# In place of ``network``: before each pass a batch normalization is set to use what it has learned.
FROZEN = (
    "$([part.register_forward_pre_hook(lambda part, _: part.eval() and None) for part in @network_def.modules()"
    " if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)], @network_def.to(@device))[1]"
)
PLAIN = {
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.01},
    "lr_scheduler": {"_target_": "torch.optim.lr_scheduler.ConstantLR", "optimizer": "@optimizer", "factor": 1.0},
}


@pytest.fixture(scope="module")
def case() -> TrainedCase:
    return HIPPOCAMPUS


class TestInference:
    def test_initial_transform_of_any_kind_is_part_of_the_result(self, bundle, run, tmp_path):
        """The moving image is moved far away and turned; a file says where to, or mutual information finds out."""
        image = nib.load(bundle / "sample/moving.nii.gz")
        turn = sitk.Euler3DTransform([0.0, 0.0, 0.0], 0.2, -0.15, 0.25, [300.0, -150.0, 80.0])
        flip, motion = np.diag([-1.0, -1, 1, 1]), np.eye(4)
        motion[:3, :3], motion[:3, 3] = np.array(turn.GetMatrix()).reshape(3, 3), turn.GetTranslation()
        affine = flip @ motion @ flip @ image.affine
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / "far.nii.gz")
        nib.save(nib.Nifti1Image(np.ones(image.shape, np.uint8), affine), tmp_path / "mask.nii.gz")
        near = {key: str(bundle / f"sample/{key}.nii.gz") for key in ("fixed", "moving")}
        sitk.WriteTransform(turn, str(tmp_path / "turn.tfm"))
        far = near | {"moving": str(tmp_path / "far.nii.gz")}
        ways = {
            "near": near | {"init": "none"},
            "file": far | {"init": str(tmp_path / "turn.tfm")},
            "rigid": far | {"init": "rigid", "moving_mask": str(tmp_path / "mask.nii.gz")},
        }
        for name, options in ways.items():
            run("inference", output_dir=str(tmp_path / name), **options)
        truth, by_file, rigid = (nib.load(tmp_path / name / "warped.nii.gz").get_fdata() for name in ways)
        assert np.corrcoef(by_file.ravel(), truth.ravel())[0, 1] > 0.999
        assert np.corrcoef(rigid.ravel(), truth.ravel())[0, 1] > 0.7  # another start, but the same anatomy
        inputs = json.loads((tmp_path / "file/report.json").read_text())["inputs"]
        assert inputs["init"]["path"] == str(tmp_path / "turn.tfm")
        assert len(inputs["init"]["sha256"]) == 64


class TestTraining:
    def test_resumed_training_ends_where_it_would_have(self, train, tmp_path):
        # Stopped after one of two epochs, as a kill would, with the schedule of both.
        steps = {"lr_scheduler#total_steps": 4, "pairs_per_epoch": 2, "batch_size": 1}
        train(tmp_path / "resumed", max_epochs=1, **steps)
        resumed = train(tmp_path / "resumed", max_epochs=2, resume=True, **steps)
        whole = train(tmp_path / "whole", max_epochs=2, **steps)
        assert resumed["epoch"] == whole["epoch"] == 2
        for name, value in whole["network"].items():
            torch.testing.assert_close(resumed["network"][name], value, rtol=1e-4, atol=1e-6)

    def test_training_starts_from_given_weights(self, bundle, train, tmp_path):
        """A training that learns nothing ends with the weights that it was given."""
        shipped = bundle / "models/model.pt"
        trained = train(tmp_path, max_epochs=1, initial_weights=str(shipped), learning_rate=0.0)["network"]
        for name, value in torch.load(shipped, weights_only=True).items():
            if name.endswith(("weight", "bias")):  # statistics of batches change without learning
                torch.testing.assert_close(trained[name], value, rtol=0, atol=0)

    def test_two_processes_learn_what_one_with_their_batch_does(self, case, bundle, train, torchrun, tmp_path):
        """One process, then two from its checkpoint, then one from theirs.

        Batch normalization, which would see half a batch, is frozen. Steps are plain, since Adam's first ones make as
        much of a rounding error as of a derivative. What one process writes is written once.
        """
        overlay = tmp_path / "plain.json"
        overlay.write_text(json.dumps({"network": FROZEN, **PLAIN}))
        train(tmp_path / "first", str(overlay), max_epochs=1)
        for name in ("one", "two"):
            shutil.copytree(tmp_path / "first/checkpoints", tmp_path / name / "checkpoints")
        options = {"max_epochs": 2, "resume": True}
        one = train(tmp_path / "one", str(overlay), **options)
        options |= {**case.few_steps, "amp": False, "output_dir": tmp_path / "two"}
        torchrun("train", "multi_gpu_train", str(overlay), **options)
        two = torch.load(tmp_path / "two/checkpoints/last.pt", weights_only=True)
        assert one["iteration"] == two["iteration"] == 4
        curves = (bundle / "configs/train.json").read_text().count("TensorBoardStatsHandler")
        assert len(list((tmp_path / "two").glob("events.out.tfevents.*"))) == curves
        losses = [_losses(tmp_path / name) for name in ("one", "two")]
        assert len(losses[0]) == 2
        np.testing.assert_allclose(*losses, rtol=1e-4)
        for name, value in one["network"].items():
            torch.testing.assert_close(two["network"][name], value, rtol=1e-3, atol=1e-6)
        assert train(tmp_path / "two", str(overlay), max_epochs=3, resume=True)["epoch"] == 3

    def test_errors_name_the_image(self, data, train, tmp_path):
        sections = json.loads((data / "datalist.json").read_text())
        for record in sections["training"]:
            record["image"] = str(data / record["image"])
        content = Path(sections["training"][1]["image"]).read_bytes()
        sections["training"][1]["image"] = "broken.nii.gz"
        (tmp_path / "broken.nii.gz").write_bytes(content[: len(content) // 2])
        (tmp_path / "datalist.json").write_text(json.dumps(sections))
        assert f"{tmp_path / 'broken.nii.gz'}: cannot be read" in cause_of(
            train, tmp_path / "output", dataset_dir=str(tmp_path)
        )


class TestRefinement:
    def test_unknown_way_to_refine(self, run, tmp_path):
        message = cause_of(run, "inference", "refine", output_dir=str(tmp_path), refine="velocity")
        assert "refine must be one of" in message
        assert "got 'velocity'" in message


def _losses(folder: Path) -> list[float]:
    """The curve of the training loss, iteration by iteration."""
    for file in folder.glob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        if "train_loss" in events.Tags()["scalars"]:
            return [event.value for event in events.Scalars("train_loss")]
    raise AssertionError(f"{folder} has no curve")
