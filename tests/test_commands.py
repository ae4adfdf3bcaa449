# SPDX-License-Identifier: Apache-2.0
"""The command line as a user types it, its files judged by ITK."""

import inspect
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

import regplugins
from regplugins.__main__ import main
from regplugins.commands import COMMANDS
from regplugins.io import folder_lock, read_transform, write_landmarks, write_transform
from regplugins.spatial import AffineTransform, DisplacementField, Grid
from tests.itk_truth import (
    GRIDS,
    array_of,
    points_in,
    random_affine,
    random_field,
    read_field,
    read_results,
    transform_points,
    translation,
    write_image,
    write_series,
)

ROOT = Path(__file__).resolve().parents[1]
NO_FOLDER = "no folder for the results; type regplugins register FIXED MOVING -o FOLDER"
FIXED, MOVING = GRIDS["oblique"], GRIDS["las"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command in ``tmp_path``, which holds a pair and its transforms; gives what it prints as JSON."""
    monkeypatch.chdir(tmp_path)
    write_image(torch.rand(FIXED.shape), FIXED, tmp_path / "fixed.nii.gz")
    write_image(torch.rand(MOVING.shape), MOVING, tmp_path / "moving.nii.gz")
    write_image(torch.randint(0, 4, MOVING.shape).to(torch.uint8), MOVING, tmp_path / "label.nii.gz")
    write_transform(random_field(FIXED), tmp_path / "warp.nii.gz")
    write_transform(AffineTransform(random_affine(3)), tmp_path / "affine.mat")
    write_landmarks(points_in(FIXED, 5), tmp_path / "points.csv", names=list("abcde"))

    def call(line: str) -> dict:
        main([*line.split(), "--json"])
        return json.loads(capsys.readouterr().out)

    return call


def itk_chain() -> sitk.Transform:
    """x -> affine(x + u(x)), read by ITK from the files."""
    return sitk.CompositeTransform([sitk.ReadTransform("affine.mat"), read_field("warp.nii.gz")])


def itk_resampled(name: str, interpolator: int, fill: float = 0.0) -> np.ndarray:
    """The file through the chain onto the fixed grid; where ITK's field ends, ours continues."""
    return array_of(
        sitk.Resample(sitk.ReadImage(name), sitk.ReadImage("fixed.nii.gz"), itk_chain(), interpolator, fill)
    )


class TestApply:
    def test_images_as_itk_has_them(self, run):
        run("apply warp.nii.gz affine.mat --image moving.nii.gz --reference fixed.nii.gz --output out.nii.gz --fill -7")
        truth = itk_resampled("moving.nii.gz", sitk.sitkLinear, -7)
        found = array_of(sitk.ReadImage("out.nii.gz"))
        np.testing.assert_array_equal(found == -7, truth == -7)
        np.testing.assert_allclose(found, truth, atol=1e-4)
        assert (found == -7).any() and (found != -7).any()

    def test_a_ct_is_surrounded_by_air(self, run, tmp_path):
        write_image(3000 * torch.rand(MOVING.shape) - 1000, MOVING, tmp_path / "ct.nii.gz")
        run("apply warp.nii.gz affine.mat --image ct.nii.gz --reference fixed.nii.gz --output out.nii.gz")
        truth = itk_resampled("ct.nii.gz", sitk.sitkLinear, -1024)
        assert (truth == -1024).any()
        np.testing.assert_allclose(array_of(sitk.ReadImage("out.nii.gz")), truth, atol=0.1)

    def test_labels_keep_values_and_type(self, run):
        run("apply warp.nii.gz affine.mat --label label.nii.gz --reference fixed.nii.gz --output out.nii.gz")
        image = sitk.ReadImage("out.nii.gz")
        assert image.GetPixelID() == sitk.sitkUInt8
        assert np.mean(array_of(image) == itk_resampled("label.nii.gz", sitk.sitkNearestNeighbor)) > 0.999

    def test_landmarks_go_and_come_back(self, run, tmp_path):
        run("apply warp.nii.gz affine.mat --landmarks points.csv --output there.csv")
        rows = np.genfromtxt("points.csv", delimiter=",", skip_header=1, usecols=(0, 1, 2))
        there = np.genfromtxt("there.csv", delimiter=",", skip_header=1, usecols=(0, 1, 2))
        np.testing.assert_allclose(there, transform_points(itk_chain(), torch.from_numpy(rows)), atol=1e-3)
        assert Path("there.csv").read_text().splitlines()[1].endswith(",a")
        run("apply warp.nii.gz affine.mat --landmarks there.csv --output back.csv --inverse")
        back = np.genfromtxt("back.csv", delimiter=",", skip_header=1, usecols=(0, 1, 2))
        assert np.linalg.norm(back - rows, axis=1).max() < 0.05  # the field's inverse lies on a grid of 2 mm

    def test_inverse_of_one_file(self, run):
        run("apply [affine.mat,1] affine.mat --landmarks points.csv --output same.csv")
        found = np.genfromtxt("same.csv", delimiter=",", skip_header=1, usecols=(0, 1, 2))
        truth = np.genfromtxt("points.csv", delimiter=",", skip_header=1, usecols=(0, 1, 2))
        np.testing.assert_allclose(found, truth, atol=1e-6)

    @pytest.mark.parametrize("inverse", [False, True])
    def test_landmarks_outside_the_first_field_are_told(self, run, caplog, inverse):
        """The field lies 300 mm away, and the affine transform before it brings the points there."""
        away = translation(300.0, 300.0, 0.0)
        grid = Grid(FIXED.shape, away.matrix @ FIXED.affine)
        write_transform(DisplacementField(torch.zeros(3, *FIXED.shape), grid), "far.nii.gz")
        write_transform(away.inverse() if inverse else away, "away.mat")
        files = "far.nii.gz away.mat --inverse" if inverse else "away.mat far.nii.gz"
        points = points_in(FIXED, 5)
        write_landmarks(points, "near.csv")
        run(f"apply {files} --landmarks near.csv --output o.csv")
        assert "outside" not in caplog.text
        write_landmarks(points + torch.tensor([0.0, 0, 1000]), "beyond.csv")
        run(f"apply {files} --landmarks beyond.csv --output o.csv")
        place = "the grid of the displacement field that is applied first"
        assert f"beyond.csv: 5 of 5 landmarks lie outside {place}, read as RAS mm" in caplog.text

    def test_landmarks_of_the_other_world_are_told(self, run, caplog):
        grid = Grid(FIXED.shape, translation(300.0, 300.0, 0.0).matrix @ FIXED.affine)
        write_transform(DisplacementField(torch.zeros(3, *FIXED.shape), grid), "far.nii.gz")
        write_landmarks(points_in(grid, 5), "lps.csv", "LPS")
        run("apply far.nii.gz --landmarks lps.csv --output o.csv")
        assert (
            "lps.csv: 5 of 5 landmarks lie outside the grid of the displacement field that is applied first, read as "
            "RAS mm; as LPS 5 would lie inside, try --landmark_space LPS"
        ) in caplog.text
        caplog.clear()
        run("apply far.nii.gz --landmarks lps.csv --output o.csv --landmark_space LPS")
        assert "outside" not in caplog.text


class TestFiles:
    @pytest.mark.parametrize("output", ["chain.h5", "chain.nii.gz"])
    def test_composed(self, run, output):
        run(
            f"compose warp.nii.gz affine.mat --output {output} --reference fixed.nii.gz".removesuffix(
                "" if output.endswith("gz") else " --reference fixed.nii.gz"
            )
        )
        inside = FIXED.index_to_world(3 + 10 * torch.rand(50, 3, dtype=torch.float64))
        truth = transform_points(itk_chain(), inside)
        found = transform_points((sitk.ReadTransform if output.endswith(".h5") else read_field)(output), inside)
        torch.testing.assert_close(found, truth, atol=2e-3, rtol=0)

    def test_affine_files_compose_to_one(self, run):
        run("compose affine.mat affine.mat --output twice.tfm")
        points = points_in(FIXED)
        once, twice = sitk.ReadTransform("affine.mat"), sitk.ReadTransform("twice.tfm")
        truth = transform_points(once, transform_points(once, points))
        torch.testing.assert_close(transform_points(twice, points), truth, atol=1e-6, rtol=0)

    def test_inverse_undoes(self, run):
        told = run("invert warp.nii.gz --output back.nii.gz")
        assert told["residual_mean_mm"] < 0.02
        inside = FIXED.index_to_world(5 + 8 * torch.rand(50, 3, dtype=torch.float64))
        there = read_transform("warp.nii.gz")(inside)
        found = transform_points(read_field("back.nii.gz"), there)
        assert (found - inside).norm(dim=1).quantile(0.95) < 0.15  # both are linear between voxels of 2 mm
        assert run("invert affine.mat --output back.mat") == {"transform": "back.mat"}

    def test_where_an_inverse_is_worst_is_said(self, run):
        told = run("invert warp.nii.gz --output back.nii.gz")
        field, back = read_field("warp.nii.gz"), read_field("back.nii.gz")
        place = torch.tensor([told["residual_max_at"]], dtype=torch.float64)
        off = (transform_points(field, transform_points(back, place)) - place).norm()
        assert off == pytest.approx(told["residual_max_mm"], rel=0.05, abs=1e-4)

    @pytest.mark.parametrize("line", ["invert", "apply --inverse --landmarks points.csv"])
    def test_a_fold_is_named(self, run, line, caplog):
        field = random_field(FIXED)
        write_transform(DisplacementField(8 * field.vectors, FIXED), "folded.nii.gz")
        run(f"{line} folded.nii.gz --output {'back.nii.gz' if line == 'invert' else 'back.csv'}")
        assert "folds at" in caplog.text and "no inverse" in caplog.text

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("invert damaged.nii.gz affine.mat --output back.nii.gz", "the grid is undetermined"),
            ("compose affine.mat damaged.nii.gz --output chain.nii.gz", "the grid is undetermined"),
            ("invert damaged.nii.gz --output back.mat", r"back\.mat: .* displacement field; choose \.h5"),
            ("invert damaged.nii.gz --output back.xyz", "a transform file ends in"),
            ("invert damaged.nii.gz --output no/back.h5", "its folder does not exist"),
            ("apply damaged.nii.gz --inverse --landmarks points.csv --output o.nii", "written as .csv"),
            ("apply damaged.nii.gz --image moving.nii.gz --output o.nii", "--reference"),
        ],
    )
    def test_an_output_that_cannot_be_is_refused_before_a_transform_is_read(self, run, line, message):
        Path("damaged.nii.gz").write_bytes(b"not a field")
        with pytest.raises(SystemExit, match=message):
            run(line)

    def test_a_composite_that_needs_a_grid_is_not_inverted_first(self, run, caplog):
        run("compose warp.nii.gz affine.mat --output chain.h5")
        with caplog.at_level("INFO"), pytest.raises(SystemExit, match="the grid is undetermined"):
            run("invert chain.h5 --output back.nii.gz")
        assert "inverting" not in caplog.text

    def test_inverse_of_a_chain_lies_on_the_moving_grid(self, run):
        run("invert warp.nii.gz affine.mat --output back.nii.gz --reference moving.nii.gz")
        inside = FIXED.index_to_world(6 + 6 * torch.rand(50, 3, dtype=torch.float64))
        found = transform_points(read_field("back.nii.gz"), transform_points(itk_chain(), inside))
        assert (found - inside).norm(dim=1).quantile(0.9) < 0.3

    @pytest.mark.parametrize("form", ["tfm", "txt", "h5"])
    def test_affine_forms(self, run, form):
        run(f"convert affine.mat --output other.{form}")
        points = points_in(FIXED)
        found = transform_points(sitk.ReadTransform(f"other.{form}"), points)
        torch.testing.assert_close(found, transform_points(sitk.ReadTransform("affine.mat"), points))

    def test_an_affine_transform_as_a_field_needs_a_grid(self, run):
        with pytest.raises(SystemExit, match="--reference"):
            run("convert affine.mat --output field.nii.gz")
        assert not Path("field.nii.gz").exists()
        run("convert affine.mat --output field.nii.gz --reference fixed.nii.gz")
        field = read_transform("field.nii.gz")
        points = points_in(FIXED)
        torch.testing.assert_close(field(points), read_transform("affine.mat")(points), atol=1e-4, rtol=0)

    def test_a_warp_is_no_affine_file(self, run):
        with pytest.raises(SystemExit, match=r"other\.mat"):
            run("convert warp.nii.gz --output other.mat")
        assert not Path("other.mat").exists()


def test_figures_of_given_files(run, tmp_path):
    # A box of 6 voxels shifted by 2 of 1.5 mm: 4 of 6 overlap, and the landmarks are 3 mm away.
    grid = GRIDS["ras"]
    label = torch.zeros(grid.shape, dtype=torch.int16)
    label[6:12, 8:14, 5:11] = 1
    write_image(label, grid, tmp_path / "a.nii.gz")
    write_image(label.roll(2, 0), grid, tmp_path / "b.nii.gz")
    points = points_in(grid, 4)
    write_landmarks(points, tmp_path / "p.csv")
    write_landmarks(points + torch.tensor([3.0, 0, 4]), tmp_path / "q.csv")
    write_transform(AffineTransform(torch.diag(torch.tensor([-1.0, 1, 1, 1]))).sample(grid), tmp_path / "mirror.nii.gz")
    files = "--warped_label b.nii.gz --fixed_label a.nii.gz --warped_landmarks p.csv --moving_landmarks q.csv"
    figures = run(f"evaluate {files} --transform mirror.nii.gz")
    assert figures["overlap"]["1"]["dice"] == pytest.approx(4 / 6)
    assert figures["overlap"]["mean"] == figures["overlap"]["1"]
    assert figures["tre_mm"] == {name: pytest.approx(5) for name in ("mean", "median", "max")} | {"n": 4}
    assert figures["folding_percent"] == 100
    assert figures["sd_log_jacobian"] is None  # every voxel folds
    assert figures["sd_log_jacobian_learn2reg"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(SystemExit, match="both --warped_label and --fixed_label"):
        run("evaluate --warped_label b.nii.gz")
    with pytest.raises(SystemExit, match="does not lie on the grid"):
        run("evaluate --warped_label b.nii.gz --fixed_label label.nii.gz")


def test_labels_that_are_not_everywhere(run, tmp_path, caplog):
    """Label 2 is lost by the transform, 3 was never in the moving scan, 4 is in the moving scan alone."""
    grid = GRIDS["ras"]
    fixed, warped, moving = torch.zeros(3, *grid.shape, dtype=torch.int16)
    fixed[2:6], fixed[8:10], fixed[12:14] = 1, 2, 3
    warped[4:8], warped[15] = 1, 4
    moving[1:5], moving[6], moving[9] = 1, 2, 4
    for name, label in (("f", fixed), ("w", warped), ("m", moving)):
        write_image(label, grid, tmp_path / f"{name}.nii.gz")
    figures = run("evaluate --warped_label w.nii.gz --fixed_label f.nii.gz")
    assert figures["labels"] == {"evaluated": 3, "missing": [2, 3], "only_warped": [4]}
    assert figures["overlap"]["mean"]["dice"] == pytest.approx(0.5 / 3)
    assert figures["overlap"]["mean"]["hd95"] == figures["overlap"]["1"]["hd95"] > 0
    assert "w.nii.gz: without label 2, 3 of f.nii.gz, which count as Dice 0; give --moving_label" in caplog.text
    figures = run("evaluate --warped_label w.nii.gz --fixed_label f.nii.gz --moving_label m.nii.gz")
    assert figures["labels"] == {"both": 2, "only_fixed": [3], "only_moving": [4], "lost": [2]}
    assert figures["overlap"]["mean"]["dice"] == pytest.approx(0.5 / 2)
    assert set(figures["overlap"]) == {"1", "2", "mean"}
    write_image(moving.clamp(4), grid, tmp_path / "other.nii.gz")
    with pytest.raises(SystemExit, match=r"other\.nii\.gz: no label in common with f\.nii\.gz"):
        run("evaluate --warped_label w.nii.gz --fixed_label f.nii.gz --moving_label other.nii.gz")


def test_initial_transform_alone(run):
    run("align fixed.nii.gz moving.nii.gz --output_dir out --kind fov")
    center = FIXED.index_to_world((torch.tensor(FIXED.shape, dtype=torch.float64)[None] - 1) / 2)
    truth = MOVING.index_to_world((torch.tensor(MOVING.shape, dtype=torch.float64)[None] - 1) / 2)
    found = transform_points(sitk.ReadTransform("out/transform_0GenericAffine.mat"), center)
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=0)
    with pytest.raises(SystemExit, match="kind must be one of"):
        run("align fixed.nii.gz moving.nii.gz --output_dir out --kind quick")


def test_report_of_another_tools_transforms(run):
    run("report out warp.nii.gz affine.mat --fixed fixed.nii.gz --moving moving.nii.gz --moving_label label.nii.gz")
    report = json.loads(Path("out/report.json").read_text())
    assert report["weights"] is None
    # "Before" is the world as it was, "after" the whole chain.
    fixed = array_of(sitk.ReadImage("fixed.nii.gz"))
    for when, transform in (("before", sitk.Transform(3, sitk.sitkIdentity)), ("after", itk_chain())):
        images = (sitk.ReadImage("moving.nii.gz"), sitk.ReadImage("fixed.nii.gz"))
        seen = array_of(sitk.Resample(*images, transform, sitk.sitkLinear, -1.0))
        covered = seen >= 0
        truth = np.corrcoef(fixed[covered], seen[covered])[0, 1]
        assert report["similarity"]["ncc"][when] == pytest.approx(truth, abs=0.01)
    label = array_of(sitk.ReadImage("out/warped_label.nii.gz"))
    assert np.mean(label == itk_resampled("label.nii.gz", sitk.sitkNearestNeighbor)) > 0.999
    points = FIXED.index_to_world(3 + 10 * torch.rand(50, 3, dtype=torch.float64))
    again = transform_points(read_results(Path("out")), points)
    torch.testing.assert_close(again, transform_points(itk_chain(), points), atol=1e-3, rtol=0)


def test_a_report_replaces_both_directions_of_another_pair(run):
    Path("out/backward").mkdir(parents=True)
    others = [Path("out/backward/report.json"), Path("out/warped_label.nii.gz")]
    for path in others:
        path.write_text("{}")
    run("report out affine.mat --fixed fixed.nii.gz --moving moving.nii.gz")
    assert not any(path.exists() for path in others)
    assert Path("out/report.json").is_file()


def test_a_report_does_not_overwrite_its_transforms(run):
    run("report out affine.mat --fixed fixed.nii.gz --moving moving.nii.gz")
    before = Path("out/transform_0GenericAffine.mat").read_bytes()
    with pytest.raises(SystemExit, match=r"transform_0GenericAffine\.mat: is an input and would be overwritten"):
        run("report out [out/transform_0GenericAffine.mat,1] --fixed moving.nii.gz --moving fixed.nii.gz")
    assert Path("out/transform_0GenericAffine.mat").read_bytes() == before


def test_report_into_a_folder_that_a_run_writes_into(run):
    with folder_lock(Path("out")), pytest.raises(SystemExit, match="a run writes into this folder"):
        run("report out warp.nii.gz affine.mat --fixed fixed.nii.gz --moving moving.nii.gz")
    assert not Path("out").exists()


def test_bundles_and_the_state_of_their_weights(run, tmp_path):
    (name,) = [path.parents[1].name for path in (ROOT / "bundles").glob("hippocampus*/configs/metadata.json")]
    shutil.copytree(ROOT / "bundles" / name, tmp_path / "bundles" / name)
    models = tmp_path / "bundles" / name / "models"
    metadata = tmp_path / "bundles" / name / "configs/metadata.json"
    entries = json.loads(metadata.read_text())
    entries["weights"]["models/model.pt"]["sha256"] = entries["weights"]["models/model.pt"]["sha256"].upper()
    metadata.write_text(json.dumps(entries))
    assert set(run("bundles")[name]["weights"].values()) == {"ok"}
    (models / "model.pt").write_bytes(b"cut")
    (models / "model_weak.pt").unlink()
    assert run("bundles")[name]["weights"] == {"models/model.pt": "changed", "models/model_weak.pt": "missing"}
    with pytest.raises(SystemExit, match="no bundle"):
        run("bundles --folder nowhere")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("apply warp.nii.gz --reference fixed.nii.gz --output o.nii.gz", "one of --image"),
        ("apply lost.nii.gz --image moving.nii.gz --reference fixed.nii.gz --output o.nii.gz", "lost.nii.gz: no such"),
        ("apply warp.nii.gz --image moving.nii.gz --output o.nii.gz", "--reference"),
        ("apply --image moving.nii.gz --reference fixed.nii.gz --output o.nii.gz", "at least one transform"),
        (
            "apply affine.mat --image moving.nii.gz --reference fixed.nii.gz --output no/o.nii.gz",
            "folder does not exist",
        ),
        ("convert affine.mat --output o.xyz", "a transform file ends in"),
        ("evaluate", "nothing to evaluate"),
        ("prepare livers dst --source src", "dataset must be one of"),
        ("report .", "neither summary.csv nor metrics.csv"),
        ("report out warp.nii.gz --fixed fixed.nii.gz", "no moving image"),
        ("report out warp.nii.gz", "no fixed image"),  # though fixed.nii.gz and moving.nii.gz lie in the folder
        (
            "apply --inverse affine.mat warp.nii.gz --landmarks points.csv --output o.csv",
            "inverse must be True or False",
        ),
        ("apply affine.mat --inverse false --landmarks points.csv --output o.csv", "inverse must be True or False"),
        ("apply affine.mat --landmarks points.csv --output o.csv --fill x", "fill must be a number, got 'x'"),
        ("align fixed.nii.gz moving.nii.gz out --seed abc", "seed must be a whole number of at least 0, got 'abc'"),
        ("align fixed.nii.gz moving.nii.gz out --seed=-1", "seed must be a whole number of at least 0, got -1"),
        ("apply affine.mat --landmarks points.csv --output points.csv", r"points\.csv: is an input"),
        ("apply affine.mat --image moving.nii.gz --reference fixed.nii.gz --output o.mha", r"o\.mha: an image is"),
        ("invert affine.mat --output affine.mat", r"affine\.mat: is an input"),
        (
            "apply affine.mat --image moving.nii.gz --reference fixed.nii.gz --output fixed.nii.gz",
            r"fixed\.nii\.gz: is an input",
        ),
        ("convert affine.mat --output fixed.nii.gz --reference fixed.nii.gz", r"fixed\.nii\.gz: is an input"),
        (
            "apply affine.mat --image far.nii.gz --reference fixed.nii.gz --output o.nii.gz",
            r"fixed\.nii\.gz and far\.nii\.gz do not overlap",
        ),
        ("report out affine.mat --fixed fixed.nii.gz --moving far.nii.gz", r"far\.nii\.gz do not overlap"),
        ("apply flat.mat --image moving.nii.gz --reference fixed.nii.gz --output o.nii.gz", r"fixed\.nii\.gz: 3-D"),
        ("convert flat.mat --output o.nii.gz --reference fixed.nii.gz", r"fixed\.nii\.gz: 3-D, the transform is 2-D"),
        ("invert singular.mat --output o.mat", r"singular\.mat: .* no inverse"),
        ("invert [affine.mat] --output o.mat", r"\[affine\.mat\]: expected .* \[file,1\]"),
        ("apply affine.mat --landmarks points.csv --output o.nii.gz", r"o\.nii\.gz: landmarks are written as \.csv"),
        ("apply affine.mat --landmarks points.csv --output o.csv --fill 3", "--fill says nothing about --landmarks"),
        ("align fixed.nii.gz moving.nii.gz --output_dir label.nii.gz", r"label\.nii\.gz: is a file"),
        ("align fixed.nii.gz moving.nii.gz --output_dir done", "done: holds the results of a registration"),
        (
            "apply affine.mat --image rgb.nii.gz --reference fixed.nii.gz --output o.nii.gz",
            r"rgb\.nii\.gz: 3 values per voxel",
        ),
        ("invert [affine.mat,1] --output affine.mat", r"affine\.mat: is an input"),
        ("invert warp.nii.gz affine.mat --output back.nii.gz", "the grid is undetermined"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(run, tmp_path, line, message):
    far = Grid(MOVING.shape, translation(1e4, 0.0, 0.0).matrix @ MOVING.affine)
    write_image(torch.rand(MOVING.shape), far, tmp_path / "far.nii.gz")
    colors = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colors, np.eye(4)), tmp_path / "rgb.nii.gz")
    write_transform(AffineTransform(torch.eye(3, dtype=torch.float64)), tmp_path / "flat.mat")
    write_transform(AffineTransform(torch.diag(torch.tensor([1.0, 0, 1, 1]).double())), tmp_path / "singular.mat")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "report.json").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit, match=message):
        run(line)
    assert sorted(tmp_path.rglob("*")) == before


def test_unknown_options_are_refused_before_anything_is_done(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        run("apply warp.nii.gz --image moving.nii.gz --reference fixed.nii.gz --output o.nii.gz --fil 3")
    assert error.value.code == 2
    message = "error: apply has no option --fil; did you mean --fill?; see regplugins apply --help\n"
    assert capsys.readouterr().err == message
    assert not (tmp_path / "o.nii.gz").exists()
    with pytest.raises(SystemExit, match=r"unknown option --fixd; did you mean --fixed\?$"):
        run(f"register --bundle {ROOT / 'bundles/hippocampus_mr_multires_fcn'} --output_dir out --fixd fixed.nii.gz")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [
        *(" lead.mat", "a,b.mat", "a [1].mat", "[x].mat", "[x,1].mat", "a\nb.mat", "ä'\".mat", "$x.mat", "F#1.mat"),
        *("%F.mat", "@out.mat", "-1.mat", "1e5.mat", "(__import__).mat"),
    ],
)
def test_names_of_files_may_be_any(run, tmp_path, name):
    shutil.copy("affine.mat", name)
    truth = read_transform("affine.mat")
    for words, expected in (([name], truth.inverse()), ([f"[./{name},1]"], truth)):
        main(["invert", *words, "--output", "back.mat"])
        torch.testing.assert_close(read_transform("back.mat").matrix, expected.matrix)
    main(["compose", name, "affine.mat", "--output", f"o{name}"])
    torch.testing.assert_close(read_transform(f"o{name}").matrix, (truth @ truth).matrix)
    images = ["--image", "moving.nii.gz", "--reference", "fixed.nii.gz"]
    main(["apply", name, *images, "--output", "out.nii.gz"])
    found = array_of(sitk.ReadImage("out.nii.gz"))
    pair = sitk.ReadImage("moving.nii.gz"), sitk.ReadImage("fixed.nii.gz")
    warped = sitk.Resample(*pair, sitk.ReadTransform("affine.mat"), sitk.sitkLinear)
    np.testing.assert_allclose(found, array_of(warped), atol=1e-4)


@pytest.mark.parametrize(
    "words", [["invert", "-x.mat", "--output", "o.mat"], ["invert", "affine.mat", "--output", "-x.mat"]]
)
def test_a_name_that_looks_like_an_option(run, tmp_path, capsys, words):
    shutil.copy("affine.mat", "-x.mat")
    with pytest.raises(SystemExit) as error:
        main(words)
    assert error.value.code == 2
    assert "invert has no option -x.mat; a file of that name is written ./-x.mat" in capsys.readouterr().err
    main([word.replace("-x", "./-x") for word in words])
    truth = read_transform("affine.mat").inverse().matrix
    torch.testing.assert_close(read_transform("o.mat" if "o.mat" in words else "-x.mat").matrix, truth)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("align fixed.nii.gz moving.nii.gz --kind fov --output_dir", "wants a value after --output_dir"),
        ("register --bundle --output_dir out", "wants a value after --bundle"),
        ("register --bundle b --output_dir out --fixed", "wants a value after --fixed"),
    ],
)
def test_options_want_values(run, tmp_path, capsys, line, message):
    # python-fire takes an option without a value for True.
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as error:
        run(line)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_words_stay_words(run, tmp_path):
    # python-fire reads 2024.10 as the number 2024.1.
    assert run("align fixed.nii.gz moving.nii.gz --output_dir 2024.10 -k fov")["transform"].startswith("2024.10/")
    with pytest.raises(SystemExit, match=r"^error: 2024_10/"):
        run("register fixed.nii.gz moving.nii.gz -o out --bundle hippocampus_mr_multires_fcn --models_dir 2024_10")
    run("convert 2024.10/transform_0GenericAffine.mat --output 7.txt")
    assert (tmp_path / "7.txt").is_file()
    for folder in ("1e5", "None", "True", "$HOME", "F#1", "%F", "@out", "[a]", "{a: 1}", "'quoted'", "-"):
        for words in (["--output_dir", folder], [f"--output_dir={folder}"], [folder]):
            main(["align", "fixed.nii.gz", "moving.nii.gz", *words, "--kind", "fov"])
            (tmp_path / folder / "transform_0GenericAffine.mat").unlink()


def test_words_too_many_are_refused_before_anything_is_done(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        run("align fixed.nii.gz moving.nii.gz out rigid mask.nii.gz mask.nii.gz 0 8")
    assert error.value.code == 2
    assert "Could not consume arg: '8'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_turn_stored_as_a_field_is_undone(run):
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[0.0, -1], [1, 0]])
    turn[:3, 3] = FIXED.center - turn[:3, :3] @ FIXED.center
    write_transform(AffineTransform(turn).sample(FIXED), "turn.nii.gz")
    center = FIXED.center + torch.tensor([[3.0, -2, 1], [-4, 1, 2]], dtype=torch.float64)
    write_landmarks(center, "near.csv")
    run("apply turn.nii.gz --landmarks near.csv --output there.csv")
    figures = run("apply turn.nii.gz --landmarks there.csv --output back.csv --inverse")
    np.testing.assert_allclose(np.loadtxt("back.csv", delimiter=",", skiprows=1), center, atol=0.05)
    assert figures["residual_max_mm"] >= figures["residual_mean_mm"]


def test_json_is_strict(run, tmp_path):
    # A structure that is not there has no distance: null, since JSON knows no NaN.
    grid = GRIDS["small"]
    label = torch.zeros(grid.shape, dtype=torch.uint8)
    write_image(label, grid, tmp_path / "none.nii.gz")
    label[3:6, 3:6, 3:6] = 1
    write_image(label, grid, tmp_path / "one.nii.gz")
    figures = run("evaluate --warped_label none.nii.gz --fixed_label one.nii.gz")
    assert figures["overlap"]["1"] == {"dice": 0.0, "hd95": None, "asd": None}


def imported(*lines: str, folder: Path) -> tuple[int, str, set[str]]:
    """Exit code of commands in one interpreter of their own, their output, and the modules that they have imported."""
    code = "import atexit, sys; atexit.register(lambda: open('modules', 'w').write(' '.join(sys.modules)))\n"
    code += "from regplugins.__main__ import main\nfor line in sys.argv[1:]: main(line.split())"
    environment = {"PAGER": "cat", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *lines]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)
    return result.returncode, result.stdout + result.stderr, set((folder / "modules").read_text().split())


def test_help_imports_neither_torch_nor_monai(tmp_path):
    for line, content in (
        ("--help", "COMMAND is one of the following"),
        ("apply --help", "antsApplyTransforms"),
        ("--version", f"regplugins {regplugins.__version__}\n"),
    ):
        code, output, modules = imported(line, folder=tmp_path)
        assert code == 0 and content in output
        assert modules.isdisjoint({"torch", "monai", "itk", "scipy", "matplotlib", "numpy"})


def test_commands_on_transform_files_do_not_import_monai(run, tmp_path):
    code, output, modules = imported(
        "apply warp.nii.gz affine.mat --image moving.nii.gz --reference fixed.nii.gz --output o.nii.gz --json",
        "invert warp.nii.gz affine.mat --output back.nii.gz --reference moving.nii.gz",
        folder=tmp_path,
    )
    assert code == 0, output
    assert "torch" in modules and "monai" not in modules


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(capsys, monkeypatch, command):
    monkeypatch.setenv("PAGER", "cat")
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as error:
            main([command, flag])
        assert error.value.code == 0
        text = "".join(capsys.readouterr())
        assert f"regplugins {command} - " in text
        for name, parameter in inspect.signature(COMMANDS[command]).parameters.items():
            assert name.upper() in text or parameter.kind is parameter.VAR_KEYWORD


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("bundles --folder nowhere", "error: nowhere: no bundle in this folder; give --folder", ""),
        ("no_such_command", 2, "error: no command no_such_command; commands are register, align"),
        ("keys", 2, "error: no command keys"),  # of the dictionary of commands
        ("align fixed.nii.gz", 2, "no value for the required argument: moving"),
        ("invert affine.mat", 2, "Missing required flags: {'output'}"),
        ("register fixed.nii.gz moving.nii.gz", f"error: {NO_FOLDER}", ""),
        ("register fixed.nii.gz moving.nii.gz -o=", f"error: {NO_FOLDER}", ""),
    ],
)
def test_exit_codes(capsys, line, code, message):
    with pytest.raises(SystemExit) as error:
        main(line.split())
    assert error.value.code == code
    assert message in capsys.readouterr().err


def test_module_and_script_are_the_same_program():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    scripts = re.findall(r"(?m)^\[project\.scripts\]\nregplugins = \"(.+)\"$", text)
    assert pkgutil.resolve_name(*scripts) is main
    command = [sys.executable, "-m", "regplugins", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout == f"regplugins {regplugins.__version__}\n"


def test_two_dimensional_images(run, tmp_path):
    fixed, moving = GRIDS["2-D"], GRIDS["2-D oblique"]
    write_image(torch.rand(fixed.shape), fixed, tmp_path / "flat.nii.gz")
    write_image(torch.rand(moving.shape), moving, tmp_path / "tilted.nii.gz")
    path = run("align flat.nii.gz tilted.nii.gz --output_dir out --kind fov")["transform"]
    run(f"apply {path} --image tilted.nii.gz --reference flat.nii.gz --output warped.nii.gz")
    images = sitk.ReadImage("tilted.nii.gz"), sitk.ReadImage("flat.nii.gz")
    truth = array_of(sitk.Resample(*images, sitk.ReadTransform(path), sitk.sitkLinear))
    np.testing.assert_allclose(array_of(sitk.ReadImage("warped.nii.gz")), truth, atol=1e-4)
    run(f"report flat {path} --fixed flat.nii.gz --moving tilted.nii.gz")
    assert Path("flat/report.png").is_file()


def test_dicom_folders_are_images(run, tmp_path):
    scan = sitk.Cast(sitk.ReadImage("moving.nii.gz") * 1000, sitk.sitkInt16)
    sitk.WriteImage(scan, "scan.nii.gz")
    write_series(scan, tmp_path / "series", "1.2.3.4")
    for name in ("series", "scan.nii.gz"):
        run(f"align fixed.nii.gz {name} --output_dir {name}.out --kind center")
        run(f"apply affine.mat --image {name} --reference fixed.nii.gz --output {name}.out/warped.nii.gz")
        run(f"apply affine.mat --image fixed.nii.gz --reference {name} --output {name}.out/back.nii.gz --inverse")
    for file, tolerance in (("warped.nii.gz", 0.5), ("back.nii.gz", 1e-3)):
        series, single = (sitk.ReadImage(f"{name}.out/{file}") for name in ("series", "scan.nii.gz"))
        series = sitk.Resample(series, single)  # a series has its slices in the order of the scanner
        np.testing.assert_allclose(array_of(series), array_of(single), atol=tolerance)
    transforms = [read_transform(f"{name}.out/transform_0GenericAffine.mat") for name in ("series", "scan.nii.gz")]
    torch.testing.assert_close(transforms[0].matrix, transforms[1].matrix, atol=1e-3, rtol=0)


def test_page_over_a_folder_of_pairs(run, tmp_path):
    (tmp_path / "summary.csv").write_text("name,dice_mean_after\npatient_a,0.81\npatient_b,0.79\n")
    page = Path(run("report .")["page"]).read_text(encoding="utf-8")
    assert "patient_a" in page and "0.79" in page


def test_two_scans_and_o_are_the_long_form(run, tmp_path):
    short = "--init fov --levels [[8,1]]"
    for line in (
        f"register fixed.nii.gz moving.nii.gz -o short {short}",
        "register -o=equals -f fixed.nii.gz -m=moving.nii.gz -i fov -p auto --levels [[8,1]]",
        f"register --bundle {ROOT / 'bundles/any_modality_optimization'} --fixed fixed.nii.gz --moving moving.nii.gz"
        f" --output_dir long {short}",
    ):
        run(line)
    files = [Path(folder, "warped.nii.gz").read_bytes() for folder in ("short", "equals", "long")]
    assert files[0] == files[1] == files[2]


def test_a_bundle_is_no_scan(run, tmp_path):
    bundle = ROOT / "bundles/any_modality_optimization"
    with pytest.raises(SystemExit, match=rf"{bundle}: is a bundle; type .* FIXED MOVING -o FOLDER --bundle {bundle}$"):
        run(f"register {bundle} out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_run_leaves_no_file_that_looks_finished(tmp_path):
    command = [sys.executable, "-m", "regplugins", "register", "--output_dir", str(tmp_path)]
    process = subprocess.Popen([*command, "--bundle", str(ROOT / "bundles/hippocampus_mr_multires_fcn")])
    # Temporary files have hidden names that end as the file does.
    while not list(tmp_path.glob(".*-report.png")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(1e-4)
    process.kill()
    process.wait()
    finished = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert finished.isdisjoint({"report.png", "report.json"})
    for name in finished:
        if name.endswith(".nii.gz"):
            nib.load(tmp_path / name).get_fdata()  # to the end of the file, and its check sum
        if name.startswith("transform"):
            read_transform(tmp_path / name)
