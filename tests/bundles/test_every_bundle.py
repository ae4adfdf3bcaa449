# SPDX-License-Identifier: Apache-2.0
"""End-to-end behavior of every bundle, with the commands that a user types; test_engine.py has
the behavior that they share.
"""

import csv
import json
import shutil

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from tests.bundles.cases import ANY_MODALITY, CASES, DUAL_SUPERVISION, HEADS, HIPPOCAMPUS, LIMBS, BundleCase
from tests.bundles.conftest import unset_properties
from tests.itk_truth import outside_value, read_results

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
        transform = read_results(registered)
        floating = sitk.Cast(moving, sitk.sitkFloat32)
        outside = outside_value(sitk.GetArrayFromImage(moving))
        itk = sitk.GetArrayFromImage(sitk.Resample(floating, fixed, transform, sitk.sitkLinear, outside))
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

    def test_report(self, case, registered):
        report = json.loads((registered / "report.json").read_text())
        similarity = report["similarity"][case.similarity]
        assert similarity["after"] > similarity["before"] + case.gain
        assert report["warnings"] == []
        assert report["folding_percent"] < 1
        assert report["inverse_consistency_mm"]["p95"] < 1
        assert set(report["inputs"]) == {"fixed", "moving", "moving_label"}
        assert set(report["seconds"]) >= {"load", "init", "resample", "network", "warp", "invert", "evaluate", "save"}
        assert (registered / "report.png").stat().st_size > 10_000

    @pytest.mark.parametrize("case", [DUAL_SUPERVISION, LIMBS], ids=lambda case: case.name, indirect=True)
    @pytest.mark.parametrize("contrast", ["own", "remapped"])
    def test_aligned_images_stay(self, contrast, bundle, run, tmp_path):
        """The sample's fixed image against itself, and against its tissues in the reverse order of intensities."""
        fixed = nib.load(bundle / "sample/fixed.nii.gz")
        values = fixed.get_fdata()
        body = values > 0.05 * values.max()
        shown = values if contrast == "own" else np.where(body, 1.1 * values.max() - values, values)
        nib.save(nib.Nifti1Image(shown, fixed.affine), tmp_path / "moving.nii.gz")
        pair = {"fixed": str(bundle / "sample/fixed.nii.gz"), "moving": str(tmp_path / "moving.nii.gz")}
        run("inference", **pair, init="none", output_dir=str(tmp_path))
        vectors = nib.load(tmp_path / "transform_1Warp.nii.gz").get_fdata().squeeze()
        assert np.linalg.norm(vectors, axis=-1)[body].mean() < 0.3  # mm

    @pytest.mark.parametrize("case", [HIPPOCAMPUS, HEADS], ids=["of a field", "rigid"], indirect=True)
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
        outside = outside_value(sitk.GetArrayFromImage(moving))
        floating = sitk.Cast(moving, sitk.sitkFloat32)
        resliced = sitk.Resample(floating, grid, sitk.Transform(), sitk.sitkLinear, outside)
        sitk.WriteImage(resliced, str(tmp_path / "moving.mha"))
        sitk.WriteImage(fixed, str(tmp_path / "fixed.nrrd"))
        options = {"fixed": str(tmp_path / "fixed.nrrd"), "moving": str(tmp_path / "moving.mha"), "init": aligned}
        run("inference", output_dir=str(tmp_path / "out"), **options, **case.careful)
        similarity = json.loads((tmp_path / "out/report.json").read_text())["similarity"][case.similarity]
        assert similarity["after"] > case.kept * similarity["before"]
        warped = sitk.ReadImage(str(tmp_path / "out/warped.nii.gz"))
        assert warped.GetSize() == fixed.GetSize()

    @pytest.mark.parametrize("case", [HIPPOCAMPUS, HEADS], ids=["of a field", "rigid"], indirect=True)
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
        expected = read_results(tmp_path / "o/one").TransformPoint(center)
        np.testing.assert_allclose([float(warped[0][axis]) for axis in "xyz"], expected, atol=1e-3)
        assert warped[1]["name"] == "p1"


class TestConventions:
    @pytest.mark.parametrize("case", [HIPPOCAMPUS, HEADS, ANY_MODALITY], ids=lambda case: case.name, indirect=True)
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
