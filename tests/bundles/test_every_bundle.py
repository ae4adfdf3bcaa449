# SPDX-License-Identifier: Apache-2.0
"""End-to-end behavior of every bundle, with the commands that a user types."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from regplugins.checks import first_cause
from tests.bundles.cases import CASES, BundleCase
from tests.bundles.conftest import unset_properties

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> BundleCase:
    return request.param


def middle(image: sitk.Image) -> np.ndarray:
    """Center of the field of view, LPS mm."""
    return np.array(image.TransformContinuousIndexToPhysicalPoint((np.array(image.GetSize()) - 1) / 2))


class TestInference:
    def test_itk_makes_the_same_of_the_transforms(self, bundle, registered):
        fixed, moving, label = (
            sitk.ReadImage(str(bundle / f"sample/{n}.nii.gz")) for n in ("fixed", "moving", "moving_label")
        )
        field = sitk.ReadImage(str(registered / "transform_1Warp.nii.gz"), sitk.sitkVectorFloat64)
        affine = sitk.ReadTransform(str(registered / "transform_0GenericAffine.mat"))
        transform = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])
        floating = sitk.Cast(moving, sitk.sitkFloat32)
        itk = sitk.GetArrayFromImage(sitk.Resample(floating, fixed, transform, sitk.sitkLinear, 0.0))
        ours = sitk.GetArrayFromImage(sitk.ReadImage(str(registered / "warped.nii.gz")))
        # At the very border of the moving image rounding decides what is outside.
        assert (np.abs(itk - ours) < 0.05).mean() > 0.999
        itk = sitk.GetArrayFromImage(sitk.Resample(label, fixed, transform, sitk.sitkNearestNeighbor, 0))
        own = sitk.ReadImage(str(registered / "warped_label.nii.gz"))
        assert (itk == sitk.GetArrayFromImage(own)).mean() > 0.999
        assert own.GetPixelID() == label.GetPixelID()
        assert set(np.unique(itk)) == set(np.unique(sitk.GetArrayFromImage(label)))

    def test_itk_finds_the_inverse_an_inverse_and_no_folding(self, bundle, registered):
        fixed = sitk.ReadImage(str(bundle / "sample/fixed.nii.gz"))
        files = {name: registered / f"transform_1{name}.nii.gz" for name in ("Warp", "InverseWarp")}
        for path in (registered / "warped.nii.gz", registered / "warped_label.nii.gz", *files.values()):
            image = sitk.ReadImage(str(path))
            assert image.GetSize()[:3] == fixed.GetSize()
            assert image.GetSpacing()[:3] == pytest.approx(fixed.GetSpacing(), abs=1e-5)
            assert image.GetOrigin()[:3] == pytest.approx(fixed.GetOrigin(), abs=1e-4)
            assert image.GetDirection() == pytest.approx(fixed.GetDirection(), abs=1e-5)
        fields = [sitk.ReadImage(str(path), sitk.sitkVectorFloat64) for path in files.values()]
        jacobian = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(fields[0]))
        assert 100 * (jacobian <= 0).mean() < 1
        warp, inverse = (sitk.DisplacementFieldTransform(field) for field in fields)
        random = np.random.default_rng(0)
        errors = []
        for _ in range(500):
            index = (np.array(fixed.GetSize()) - 1) * random.uniform(0.25, 0.75, 3)
            point = fixed.TransformContinuousIndexToPhysicalPoint(index)
            errors.append(np.linalg.norm(np.subtract(inverse.TransformPoint(warp.TransformPoint(point)), point)))
        assert np.percentile(errors, 95) < 0.5  # mm

    def test_initial_transform_of_any_kind_is_part_of_the_result(self, case, bundle, run, tmp_path):
        """The moving image is moved far away and turned; a file says where to, or mutual information finds out."""
        image = nib.load(bundle / "sample/moving.nii.gz")
        turn = sitk.Euler3DTransform([0.0, 0.0, 0.0], 0.2, -0.15, 0.25, [300.0, -150.0, 80.0])
        flip, motion = np.diag([-1.0, -1, 1, 1]), np.eye(4)
        motion[:3, :3], motion[:3, 3] = np.array(turn.GetMatrix()).reshape(3, 3), turn.GetTranslation()
        affine = flip @ motion @ flip @ image.affine
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / "far.nii.gz")
        nib.save(nib.Nifti1Image(np.ones(image.shape, np.uint8), affine), tmp_path / "mask.nii.gz")
        near = {key: str(bundle / f"sample/{key}.nii.gz") for key in ("fixed", "moving")}
        if case.sample_init == "fov":
            fixed, moving = (middle(sitk.ReadImage(path)) for path in near.values())
            turn.SetTranslation(turn.TransformPoint(moving - fixed))
        sitk.WriteTransform(turn, str(tmp_path / "turn.tfm"))
        far = near | {"moving": str(tmp_path / "far.nii.gz")}
        ways = {
            "near": near | {"init": case.sample_init},
            "file": far | {"init": str(tmp_path / "turn.tfm")},
            "rigid": far | {"init": "rigid", "moving_mask": str(tmp_path / "mask.nii.gz"), **case.careful},
        }
        for name, options in ways.items():
            run("inference", output_dir=str(tmp_path / name), **options)
        truth, by_file, rigid = (nib.load(tmp_path / name / "warped.nii.gz").get_fdata() for name in ways)
        assert np.corrcoef(by_file.ravel(), truth.ravel())[0, 1] > 0.999
        assert np.corrcoef(rigid.ravel(), truth.ravel())[0, 1] > 0.7  # another start, but the same anatomy
        inputs = json.loads((tmp_path / "file/report.json").read_text())["inputs"]
        assert inputs["init"]["path"] == str(tmp_path / "turn.tfm")
        assert len(inputs["init"]["sha256"]) == 64

    def test_report(self, case, registered):
        report = json.loads((registered / "report.json").read_text())
        similarity = report["similarity"][case.similarity]
        assert similarity["after"] > similarity["before"] + case.gain
        assert report["folding_percent"] < 1
        assert report["inverse_consistency_mm"]["p95"] < 1
        assert set(report["inputs"]) == {"fixed", "moving", "moving_label"}
        assert set(report["seconds"]) >= {"load", "init", "resample", "network", "warp", "invert", "measure", "write"}
        assert (registered / "report.png").stat().st_size > 10_000

    def test_any_grid_of_either_image(self, case, bundle, aligned, run, tmp_path):
        """The sample resliced: other spacing, left-handed, oblique, odd sizes."""
        moving, fixed = (sitk.ReadImage(str(bundle / f"sample/{n}.nii.gz")) for n in ("moving", "fixed"))
        extent = np.array(moving.GetSize()) * moving.GetSpacing()
        center = middle(moving)
        spacing = np.array([1.1, 0.9, 2.0]) * moving.GetSpacing()
        size = 2 * np.round(extent / spacing / 2).astype(int) + [1, 1, 0]
        turn = np.array(sitk.Euler3DTransform(center, 0.1, -0.1, 0.2).GetMatrix()).reshape(3, 3)
        matrix = turn @ np.diag([-1.0, 1.0, 1.0])
        grid = sitk.Image(size.tolist(), sitk.sitkFloat32)
        grid.SetSpacing(spacing.tolist())
        grid.SetDirection(matrix.ravel().tolist())
        grid.SetOrigin((center - matrix @ (spacing * (size - 1) / 2)).tolist())
        sitk.WriteImage(sitk.Resample(sitk.Cast(moving, sitk.sitkFloat32), grid), str(tmp_path / "moving.mha"))
        sitk.WriteImage(fixed, str(tmp_path / "fixed.nrrd"))
        options = {"fixed": str(tmp_path / "fixed.nrrd"), "moving": str(tmp_path / "moving.mha"), "init": aligned}
        run("inference", output_dir=str(tmp_path / "out"), **options, **case.careful)
        similarity = json.loads((tmp_path / "out/report.json").read_text())["similarity"][case.similarity]
        assert similarity["after"] > case.kept * similarity["before"]
        warped = sitk.ReadImage(str(tmp_path / "out/warped.nii.gz"))
        assert warped.GetSize() == fixed.GetSize()

    def test_datalist_with_landmarks(self, bundle, aligned, run, tmp_path):
        for name in ("fixed", "moving", "moving_label"):
            shutil.copy(bundle / f"sample/{name}.nii.gz", tmp_path)
        fixed = sitk.ReadImage(str(tmp_path / "fixed.nii.gz"))
        center = fixed.TransformContinuousIndexToPhysicalPoint([size // 2 for size in fixed.GetSize()])
        rows = [f"{x:.4f},{y:.4f},{z:.4f},p{k}" for k, (x, y, z) in enumerate([center, [c + 3 for c in center]])]
        (tmp_path / "points.csv").write_text("\n".join(["x,y,z,name", *rows]) + "\n")
        pair = {"fixed": "fixed.nii.gz", "moving": "moving.nii.gz"}
        pairs = [
            pair | {"name": "one", "fixed_landmarks": "points.csv"},
            pair | {"moving_label": "moving_label.nii.gz"},
        ]
        (tmp_path / "pairs.json").write_text(json.dumps(pairs))
        options = {"datalist": str(tmp_path / "pairs.json"), "landmark_space": "LPS", "init": aligned}
        run("inference", output_dir=str(tmp_path / "o"), **options)
        assert [row["name"] for row in csv.DictReader((tmp_path / "o/summary.csv").open())] == ["one", "1"]
        assert (tmp_path / "o/1/warped_label.nii.gz").exists()
        warped = list(csv.DictReader((tmp_path / "o/one/warped_landmarks.csv").open()))
        field = sitk.ReadImage(str(tmp_path / "o/one/transform_1Warp.nii.gz"), sitk.sitkVectorFloat64)
        affine = sitk.ReadTransform(str(tmp_path / "o/one/transform_0GenericAffine.mat"))
        expected = affine.TransformPoint(sitk.DisplacementFieldTransform(field).TransformPoint(center))
        np.testing.assert_allclose([float(warped[0][axis]) for axis in "xyz"], expected, atol=1e-3)
        assert warped[1]["name"] == "p1"

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

    def test_misspelled_option(self, bundle, refused, monkeypatch):
        program = str(Path(monai.bundle.__file__).with_name("__main__.py"))
        words = ["run", "--config_file", str(bundle / "configs/inference.json"), "--fixd", "a.nii.gz"]
        monkeypatch.setattr(sys, "argv", [program, *words])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the run replaces it
        assert refused() == "unknown option --fixd; did you mean --fixed?"

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
            (np.where(np.eye(8)[..., None] > 0, np.nan, np.ones((8, 8, 8))), "64 voxels are NaN"),
            (np.full((8, 8, 8), 5.0), "constant image, all voxels are 5"),
            (np.zeros((8, 8, 0)), "empty image"),
            (np.random.default_rng(0).random((8, 8)), "2-D"),
        ],
        ids=["4d", "nan", "constant", "empty", "2d"],
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


class TestConventions:
    def test_all_of_monais_properties(self, bundle):
        assert unset_properties(bundle, "inference") == []

    def test_network_takes_what_the_metadata_says(self, case, bundle):
        monai.bundle.verify_net_in_out(
            net_id="network_def",
            meta_file=str(bundle / "configs/metadata.json"),
            config_file=str(bundle / "configs/inference.json"),
            device="cpu",
            n=max(16 // case.stride, 2),
        )
