# SPDX-License-Identifier: Apache-2.0
"""Behavior of this bundle alone; test_every_bundle.py has the rest."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from regplugins.io import read_transform, write_transform
from regplugins.networks import load_weights
from regplugins.spatial import AffineTransform, Grid
from tests.bundles.cases import HEADS, TrainedCase
from tests.bundles.conftest import ROOT, cause_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def case() -> TrainedCase:
    return HEADS


class TestTransform:
    def test_is_rigid_and_all_of_it_in_the_affine_file(self, registered):
        matrix = read_transform(registered / "transform_0GenericAffine.mat").matrix[:3, :3]
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(3, dtype=torch.float64))
        assert float(torch.linalg.det(matrix)) == pytest.approx(1)
        for name in ("Warp", "InverseWarp"):
            assert not nib.load(registered / f"transform_1{name}.nii.gz").get_fdata().any()

    def test_polish_is_reported_beside_the_networks_answer(self, registered, run, tmp_path):
        run("inference", output_dir=str(tmp_path), refine_rigid=False)
        folders = {True: registered, False: tmp_path}
        reports = {key: json.loads((folder / "report.json").read_text()) for key, folder in folders.items()}
        assert reports[False]["refine_rigid_mm"] == {"mean": 0, "p95": 0}
        assert reports[True]["refine_rigid_mm"]["mean"] > 0
        information = {
            refine_rigid: report["similarity"]["mutual_information"] for refine_rigid, report in reports.items()
        }
        assert information[True]["network"] == pytest.approx(information[False]["after"])
        assert information[True]["after"] > information[True]["network"] > information[True]["before"]

    @pytest.mark.parametrize(("refine_rigid", "largest"), [(False, 4), (True, 15)])
    def test_a_turned_head_comes_back_to_where_it_was(self, bundle, run, tmp_path, refine_rigid, largest):
        """Turned by 30 degrees and shifted by centimeters, within the range of the training. Fixed and moving image are
        of two people: what matches them best by mutual information is not sharply defined."""
        image = nib.load(bundle / "sample/moving.nii.gz")
        motion = np.eye(4)
        motion[:3, :3] = Rotation.from_euler("xyz", [12.0, -10.0, 25.0], degrees=True).as_matrix()
        motion[:3, 3] = [10.0, -12.0, 8.0]
        center = Grid(image.shape, torch.from_numpy(image.affine)).center.numpy()
        motion[:3, 3] += center - motion[:3, :3] @ center
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), motion @ image.affine), tmp_path / "turned.nii.gz")
        options = {"fixed": str(bundle / "sample/fixed.nii.gz"), "refine_rigid": refine_rigid}
        found = []
        for moving in (bundle / "sample/moving.nii.gz", tmp_path / "turned.nii.gz"):
            run("inference", output_dir=str(tmp_path / moving.stem), moving=str(moving), **options)
            found.append(read_transform(tmp_path / moving.stem / "transform_0GenericAffine.mat").matrix)
        first, turned = found
        corners = torch.tensor([[x, y, z, 1.0] for x in (-60, 60) for y in (-60, 60) for z in (-60, 60)]).double()
        error = ((turned - torch.from_numpy(motion) @ first) @ corners.T).norm(dim=0)
        assert float(error.mean()) < largest
        before = ((first - torch.from_numpy(motion) @ first) @ corners.T).norm(dim=0)
        assert float(before.mean()) > 40


class TestOrder:
    def test_either_order_gives_one_result(self, bundle, registered, run, tmp_path):
        paths = {key: str(bundle / f"sample/{key}.nii.gz") for key in ("fixed", "moving", "moving_label")}
        swapped = {"fixed": paths["moving"], "moving": paths["fixed"], "fixed_label": paths["moving_label"]}
        run("inference", output_dir=str(tmp_path), order="auto", refine_rigid=True, **swapped)
        found, expected = (read_transform(folder / "transform_0GenericAffine.mat") for folder in (tmp_path, registered))
        torch.testing.assert_close(found.matrix, expected.matrix, atol=1e-6, rtol=0)
        labels = [np.asarray(nib.load(f / "warped_label.nii.gz").dataobj) for f in (tmp_path, registered)]
        np.testing.assert_array_equal(*labels)
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["inputs"]["fixed"]["path"] == paths["fixed"]
        assert any(f"The fixed image of the result is {paths['fixed']};" in text for text in report["warnings"])

    def test_a_start_from_a_file_is_turned_about_with_the_images(self, bundle, run, tmp_path):
        start = AffineTransform.identity(3).matrix.clone()
        start[:3, 3] = torch.tensor([12.0, -8.0, 5.0])
        names = {}
        for name, one, other in (("there", "fixed", "moving"), ("back", "moving", "fixed")):
            transform = AffineTransform(start if name == "there" else start.inverse())
            write_transform(transform, tmp_path / f"{name}.mat")
            images = {"fixed": str(bundle / f"sample/{one}.nii.gz"), "moving": str(bundle / f"sample/{other}.nii.gz")}
            names[name] = tmp_path / name
            options = {"order": "auto", "init": str(tmp_path / f"{name}.mat"), "refine_rigid": False}
            run("inference", output_dir=str(names[name]), **options, **images)
        found = [read_transform(folder / "transform_0GenericAffine.mat").matrix for folder in names.values()]
        torch.testing.assert_close(*found, atol=1e-6, rtol=0)

    def test_the_network_that_tells_is_the_other_bundles(self, bundle):
        theirs = ROOT / "bundles/head_ct_mr_modality/models/model.pt"
        assert (bundle / "models/model_modality.pt").read_bytes() == theirs.read_bytes()


class TestRegressor:
    def test_is_fitted_to_the_features_of_the_trunk(self, bundle, data, run, tmp_path):
        options = {"dataset_dir": str(data), "fixed_sequences": ["t1"], "baselines": ["svr"]}
        few = {"pairs": 8, "held_out": 4, "run#0#iterations": 2}
        run("train", "fit_regressor", output_dir=str(tmp_path), **few, **options)
        rows = list(csv.DictReader((tmp_path / "regression.csv").open()))
        assert [row["regressor"] for row in rows] == ["head", "bayesian", "svr"]
        fitted, shipped = (load_weights(HEADS.network(), folder) for folder in (tmp_path, bundle / "models"))
        for name, value in shipped.state_dict().items():
            same = torch.equal(fitted.state_dict()[name], value)
            assert same != name.startswith("mlp."), name
        options = {"models_dir": str(tmp_path), "refine_rigid": False, "regressor": "mlp"}
        run("inference", output_dir=str(tmp_path / "out"), **options)
        assert (tmp_path / "out/warped.nii.gz").exists()

    def test_weights_without_one_are_refused(self, bundle, run, tmp_path):
        state = load_weights(HEADS.network(), bundle / "models").state_dict()
        fresh = HEADS.network().state_dict()
        torch.save(state | {name: fresh[name] for name in state if name.startswith("mlp.")}, tmp_path / "model.pt")
        options = {"output_dir": str(tmp_path / "out"), "models_dir": str(tmp_path), "refine_rigid": False}
        assert "its mlp has not been fitted" in cause_of(run, "inference", regressor="mlp", **options)
        run("inference", **options)

    def test_a_grid_of_the_papers_kind(self, data, run, tmp_path):
        """Slices farther apart than their voxels are."""
        grid = {"spacing": [8.0, 8.0, 16.0], "network_shape": [32, 32, 16], "fixed_sequences": ["t1"]}
        few = {"max_epochs": 1, "pairs_per_epoch": 2, "batch_size": 2}
        run("train", "paper", dataset_dir=str(data), output_dir=str(tmp_path), **grid, **few)
        assert (tmp_path / "checkpoints/model.pt").exists()

    def test_shipped_regressors_agree_with_the_truth(self, bundle, data, run, tmp_path):
        """Both of them, on the small data's motions."""
        errors = {}
        for regressor in ("head", "mlp"):
            folder = tmp_path / regressor
            run("train", "evaluate", dataset_dir=str(data), output_dir=str(folder), regressor=regressor)
            summary = json.loads((folder / "summary.json").read_text())
            errors[regressor] = summary["endpoint_error_mean_after"]["mean"]
            assert errors[regressor] < summary["endpoint_error_mean_before"]["mean"]
        assert errors["head"] != errors["mlp"]
