# SPDX-License-Identifier: Apache-2.0
"""Behavior that all bundles share, on the one that runs fastest; test_bundles.py compares their configurations."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from regplugins.__main__ import main
from regplugins.checks import first_cause
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

    def test_command_line_does_the_same(self, bundle, registered, tmp_path):
        command = [sys.executable, "-m", "regplugins", "register", "--bundle", str(bundle)]
        result = subprocess.run(
            [*command, "--output_dir", str(tmp_path)], check=True, capture_output=True, text=True, timeout=300
        )
        ours, theirs = (nib.load(folder / "warped.nii.gz").get_fdata() for folder in (tmp_path, registered))
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
        assert "the network was trained on" not in result.stdout + result.stderr  # the sample is such an image


class TestBadInput:
    @pytest.fixture
    def files(self, bundle, tmp_path):
        for name in ("fixed", "moving", "moving_label"):
            shutil.copy(bundle / f"sample/{name}.nii.gz", tmp_path)
        return tmp_path

    @pytest.fixture
    def refused(self, run, files, tmp_path) -> Callable[..., str]:
        """Runs; the message of what was wrong. Nothing that looks like a result may be left."""

        def check(**overrides: object) -> str:
            pair = {key: str(files / f"{key}.nii.gz") for key in ("fixed", "moving")}
            output = tmp_path / "output"
            with pytest.raises(Exception) as error:
                run("inference", output_dir=str(output), **(pair | overrides))
            assert not output.exists() or list(output.rglob("*.*")) == []
            return str(first_cause(error.value))

        return check

    def test_missing_file(self, refused):
        assert "absent.nii.gz: no such file" in refused(fixed="absent.nii.gz")

    def test_truncated_file(self, files, refused):
        content = (files / "moving.nii.gz").read_bytes()
        (files / "moving.nii.gz").write_bytes(content[: len(content) // 2])
        assert "moving.nii.gz: cannot be read" in refused()

    def test_empty_file(self, files, refused):
        (files / "moving.nii.gz").write_bytes(b"")
        assert "moving.nii.gz: cannot be read" in refused()

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.random.default_rng(0).random((8, 8, 8, 2)), "4-D, expected a 2-D or 3-D image"),
            (np.where(np.eye(8)[..., None] > 0, np.inf, np.ones((8, 8, 8))), "64 voxels are infinite"),
            (np.full((8, 8, 8), 5.0), "constant image, all voxels are 5"),
            (np.zeros((8, 8, 0)), "empty image"),
            (np.random.default_rng(0).random((8, 8)), "2-D"),
        ],
        ids=["4d", "inf", "constant", "empty", "2d"],
    )
    def test_image_that_is_none(self, files, refused, array, message):
        nib.save(nib.Nifti1Image(array, np.eye(4)), files / "moving.nii.gz")
        answer = refused()
        assert message in answer
        assert "moving.nii.gz" in answer

    def test_worlds_apart(self, files, refused):
        image = nib.load(files / "moving.nii.gz")
        affine = image.affine.copy()
        affine[:3, 3] += 1000
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), files / "far.nii.gz")
        answer = refused(moving=str(files / "far.nii.gz"), init="none")
        assert "do not overlap" in answer
        assert "far.nii.gz" in answer

    def test_label_of_another_shape(self, files, refused):
        nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.eye(4)), files / "label.nii.gz")
        assert "label.nii.gz: shape (9, 9, 9) does not match" in refused(moving_label=str(files / "label.nii.gz"))

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"init": "centroid"}, "centroid"),
            ({"interpolation": "cubic"}, "cubic"),
            ({"landmark_space": "MNI"}, "MNI"),
            ({"amp": "true"}, "amp must be True or False"),
        ],
    )
    def test_unknown_option(self, refused, overrides, message):
        assert message in refused(**overrides)


class TestTraining:
    def test_resumed_training_ends_where_it_would_have(self, train, tmp_path):
        # Stopped after one of two epochs, as a kill would, with the schedule of both.
        steps = {"lr_scheduler#total_steps": 4}
        train(tmp_path / "resumed", max_epochs=1, **steps)
        resumed = train(tmp_path / "resumed", max_epochs=2, resume=True, **steps)
        whole = train(tmp_path / "whole", max_epochs=2)
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
        """With batch normalization frozen, which would see half a batch; by plain steps, since Adam's first ones make
        as much of a rounding error as of a derivative. What one process writes is written once."""
        overlay = tmp_path / "plain.json"
        overlay.write_text(json.dumps({"network": FROZEN, **PLAIN}))
        options = {**case.few_steps, "amp": False, "max_epochs": 1}
        one = train(tmp_path / "one", str(overlay), max_epochs=1)
        torchrun("train", "multi_gpu_train", str(overlay), output_dir=tmp_path / "two", **options)
        two = torch.load(tmp_path / "two/checkpoints/last.pt", weights_only=True)
        assert one["iteration"] == two["iteration"] == 2
        curves = (bundle / "configs/train.json").read_text().count("TensorBoardStatsHandler")
        assert len(list((tmp_path / "two").glob("events.out.tfevents.*"))) == curves
        losses = [_losses(tmp_path / name) for name in ("one", "two")]
        assert len(losses[0]) == 2
        np.testing.assert_allclose(*losses, rtol=1e-4)
        for name, value in one["network"].items():
            torch.testing.assert_close(two["network"][name], value, rtol=1e-3, atol=1e-6)

    def test_nothing_to_resume_from(self, train, tmp_path):
        assert "last.pt" in cause_of(train, tmp_path, max_epochs=1, resume=True)

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

    def test_command_line_refines(self, bundle, aligned, tmp_path, capsys):
        words = ["--output_dir", str(tmp_path), "--refine", "field", "--levels", "[[8,1]]", "--init", aligned]
        main(["register", "--bundle", str(bundle), *words])
        assert str(tmp_path) in capsys.readouterr().out
        assert (tmp_path / "report.json").exists()


def _losses(folder: Path) -> list[float]:
    """The curve of the training loss, iteration by iteration."""
    for file in folder.glob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        if "train_loss" in events.Tags()["scalars"]:
            return [event.value for event in events.Scalars("train_loss")]
    raise AssertionError(f"{folder} has no curve")
