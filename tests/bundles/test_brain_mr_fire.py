# SPDX-License-Identifier: Apache-2.0
"""Behavior of this bundle alone; test_every_bundle.py has the rest."""

import csv
import json
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from regplugins.data import RandomWarp, read_datalist
from regplugins.io import load_image, write_image
from regplugins.losses.fire import TERMS
from regplugins.spatial import Grid, resample
from tests.bundles.cases import FIRE, TrainedCase
from tests.bundles.conftest import cause_of
from tests.bundles.datasets import slices_of
from tests.itk_truth import read_results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case() -> TrainedCase:
    return FIRE


@pytest.fixture(scope="module")
def slices(data, tmp_path_factory) -> Path:
    """The data set with a section of pairs of slices."""
    return slices_of(data, tmp_path_factory.mktemp("slices"))


SLICES = {"spacing": 4.0, "network_shape": [32, 32], "volume_spacing": 4.0, "volume_shape": [32, 32, 24]}


def curves_in(folder: Path) -> set[str]:
    """Names of the curves of a training."""
    files = map(str, folder.glob("events.out.tfevents.*"))
    return {tag for file in files for tag in EventAccumulator(file).Reload().Tags()["scalars"]}


class TestTraining:
    def test_three_groups_step_in_turn_at_the_papers_rates(self, train, tmp_path):
        last = train(tmp_path, "paper", max_epochs=1, pairs_per_epoch=4, batch_size=1)
        groups = last["optimizer"]["optimizer"]["param_groups"]
        assert {group["name"]: group["lr"] for group in groups} == {
            "affine": 5e-5,
            "nonrigid": 5e-5,
            "synthesis": 1e-4,
        }
        assert last["optimizer"]["next_group"] == 1  # four steps of three groups
        steps = {int(state["step"]) for state in last["optimizer"]["optimizer"]["state"].values()}
        assert steps == {1, 2}
        assert "transform_ab.affine.parameters_of.weight" in last["network"]  # the paper's affine part

    def test_a_curve_of_every_term_and_of_the_determinants(self, train, tmp_path):
        train(tmp_path, max_epochs=1)
        assert curves_in(tmp_path) >= {*TERMS, "determinant_ab", "determinant_ba", "train_loss", "val_score"}

    def test_known_warps_pull_the_transforms(self, train, tmp_path):
        """The decoders learn on, and only terms in use have a curve."""
        before = train(tmp_path / "first", max_epochs=1)["network"]
        start = str(tmp_path / "first/checkpoints/model.pt")
        after = train(tmp_path / "second", "known_warps", max_epochs=1, initial_weights=start)["network"]
        for part in ("encoder", "decoder_ab", "transform_ab.affine", "transform_ba.nonrigid"):
            assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith(part))
        assert set(TERMS) & curves_in(tmp_path / "second") == {"synthesis_accuracy", "smoothness"}

    def test_in_slices(self, slices, run, tmp_path):
        """Train, evaluate and register, the paper's 2-D experiment."""
        few = {key: value for key, value in FIRE.few_steps.items() if not key.endswith("_section")}
        options = {"dataset_dir": str(slices), **few, **SLICES, "channels": 4}
        run("train", "slices", output_dir=str(tmp_path), max_epochs=1, **options)
        (tmp_path / "checkpoints/model.pt").rename(tmp_path / "checkpoints/model_slices.pt")
        evaluation = {"models_dir": str(tmp_path / "checkpoints")}
        run("train", "evaluate", "slices", output_dir=str(tmp_path / "eval"), **options, **evaluation)
        rows = list(csv.DictReader((tmp_path / "eval/metrics.csv").open()))
        assert len(rows) == len(read_datalist(slices / "datalist.json", "slices"))
        pair = read_datalist(slices / "datalist.json", "slices")[0]
        shown = {key: pair[key] for key in ("fixed", "moving")}
        output = tmp_path / "pair"
        run("inference", "slices", output_dir=str(output), init="none", **shown, **SLICES, channels=4, **evaluation)
        assert nib.load(output / "transform_1Warp.nii.gz").shape[-1] == 2
        assert (output / "backward/transform_1Warp.nii.gz").exists()

    def test_phases_of_a_heart_cycle_in_one_modality(self, slices, run, tmp_path):
        """Warped slices stand for the phases: one contrast, and a smooth warp between them."""
        sections = json.loads((slices / "datalist.json").read_text())
        images = [record["image"] for record in sections["training"]]
        sections["training"] = []
        for number, path in enumerate(images):
            image = load_image(path)
            grid = Grid.from_image(image)
            warp = RandomWarp(4.0, rotation=0.0, translation=0.0, scaling=0.0).set_random_state(number)(grid)
            write_image(resample(image.as_tensor(), grid, grid, warp), grid, tmp_path / f"es_{number}.nii.gz")
            for name, file in (("ED", path), ("ES", f"es_{number}.nii.gz")):
                sections["training"].append({"image": file, "subject": str(number), "sequence": name})
        sections["validation"] = sections["test"] = sections["slices"]
        (tmp_path / "datalist.json").write_text(json.dumps(sections))
        few = {key: value for key, value in FIRE.few_steps.items() if not key.endswith(("_sequence", "_section"))}
        options = {"dataset_dir": str(tmp_path), **few, **SLICES, "channels": 8}
        run("train", "slices", "cine", output_dir=str(tmp_path / "output"), max_epochs=2, **options)
        checkpoints = tmp_path / "output/checkpoints"
        (checkpoints / "model.pt").rename(checkpoints / "model_cine.pt")
        options |= {"output_dir": str(tmp_path / "eval"), "models_dir": str(checkpoints)}
        run("train", "evaluate", "slices", "cine", **options)
        rows = list(csv.DictReader((tmp_path / "eval/metrics.csv").open()))
        assert len(rows) == len(sections["slices"])
        assert all(float(row["endpoint_error_mean_after"]) != float(row["endpoint_error_mean_before"]) for row in rows)


class TestEvaluation:
    @pytest.fixture(scope="class")
    def rows(self, data, run, tmp_path_factory) -> dict[str, list[dict[str, str]]]:
        """By the part of the transform that is judged."""
        result = {}
        for part in ("both", "affine"):
            folder = tmp_path_factory.mktemp(part)
            overrides = {"network_def#part": part, "affine_passes": 0, **FIRE.evaluation}
            run("train", "evaluate", dataset_dir=str(data), output_dir=str(folder), **overrides)
            result[part] = list(csv.DictReader((folder / "metrics.csv").open()))
        return result

    def test_both_directions_start_at_the_same_distance(self, rows):
        """The warps are small: their inverses are about as long."""
        for row in rows["both"]:
            there, back = (float(row[f"{way}endpoint_error_mean_before"]) for way in ("", "backward_"))
            assert there == pytest.approx(back, rel=0.1)
            assert row["cycle_consistency_mean"] != ""

    def test_the_affine_part_alone_does_not_bend(self, rows):
        for row in rows["affine"]:
            assert float(row["sd_log_jacobian"]) == pytest.approx(0, abs=1e-3)
            there, back = (float(row[f"{way}mean_jacobian"]) for way in ("", "backward_"))
            assert there > 0
            # What the shipped network finds there and back are nearly inverses.
            assert there * back == pytest.approx(1, abs=0.1)
        assert any(float(row["sd_log_jacobian"]) > 0.01 for row in rows["both"])


class TestInference:
    def test_both_directions_are_written(self, bundle, registered):
        """ITK makes of the other direction's transforms what lies beside them."""
        folder = registered / "backward"
        fixed, moving = (
            sitk.ReadImage(str(bundle / f"sample/{n}.nii.gz"), sitk.sitkFloat32) for n in ("moving", "fixed")
        )
        itk = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, read_results(folder), sitk.sitkLinear, 0.0))
        ours = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "warped.nii.gz")))
        assert (np.abs(itk - ours) < 0.05 * ours.max()).mean() > 0.995
        report = json.loads((registered / "report.json").read_text())
        assert report["cycle_consistency_mm"]["mean"] < 3
        backward = json.loads((folder / "report.json").read_text())
        assert backward["inputs"]["fixed"]["path"] == report["inputs"]["moving"]["path"]
        assert report["backward"]["similarity"] == backward["similarity"]

    def test_an_exported_network_gives_the_part_that_it_was_exported_with(self, bundle, aligned, run, tmp_path):
        monai.bundle.ckpt_export(
            net_id="network_def",
            meta_file=str(bundle / "configs/metadata.json"),
            config_file=str(bundle / "configs/inference.json"),
            ckpt_file=str(bundle / "models/model.pt"),
            filepath=str(tmp_path / "affine.ts"),
            **{"network_def#part": "affine"},
        )
        given = {"init": aligned, "weights": str(tmp_path / "affine.ts"), "affine_passes": 0}
        run("inference", output_dir=str(tmp_path / "out"), **given, **{"network_def#part": "affine"})
        report = json.loads((tmp_path / "out/report.json").read_text())
        assert report["sd_log_jacobian"] == pytest.approx(0, abs=1e-4)
        assert "affine.ts: was exported with affine_alone True, not False" in cause_of(
            run, "inference", output_dir=str(tmp_path / "none"), **given
        )
        assert not (tmp_path / "none").exists()

    def test_affine_passes_come_before_the_others(self, registered, aligned, run, tmp_path):
        """Affine passes of the affine part alone do not bend, in either direction; the report has their number."""
        options = {"init": aligned, "affine_passes": 2, "network_def#part": "affine"}
        run("inference", output_dir=str(tmp_path), **options)
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["settings"]["affine_passes"] == 2
        assert report["backward"]["sd_log_jacobian"] == pytest.approx(report["sd_log_jacobian"], abs=0.02)
        assert report["sd_log_jacobian"] < 0.02  # fields continue from the border, where they do bend
        more = json.loads((registered / "report.json").read_text())
        assert more["settings"]["affine_passes"] == 2
        assert more["sd_log_jacobian"] > report["sd_log_jacobian"]

    def test_synthesized_images(self, bundle, registered, aligned, run, tmp_path):
        run("inference", output_dir=str(tmp_path), init=aligned, synthesized=True)
        fixed, moving = (center_of_mass(nib.load(bundle / f"sample/{key}.nii.gz")) for key in ("fixed", "moving"))
        assert np.linalg.norm(fixed - moving) > 12
        for name in ("moving", "fixed"):
            image = nib.load(tmp_path / f"synthesized_{name}.nii.gz")
            assert image.shape == (48, 56, 48)
            values = image.get_fdata()
            assert 0 <= values.min() < values.max() <= 1
            # Both where the fixed image is: the moving one is shown after the initial transform.
            assert np.linalg.norm(center_of_mass(image) - fixed) < 8
        assert not (registered / "synthesized_moving.nii.gz").exists()


def center_of_mass(image: nib.Nifti1Image) -> np.ndarray:
    """Center of mass of the voxels above half of the 99th percentile, world mm."""
    values = image.get_fdata()
    places = np.argwhere(values > 0.5 * np.percentile(values, 99))
    return nib.affines.apply_affine(image.affine, places.mean(axis=0))
