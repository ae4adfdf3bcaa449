# SPDX-License-Identifier: Apache-2.0
"""Measures and files of a pair with a known displacement field."""

import csv
import json
import math

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image
from scipy.ndimage import gaussian_filter

from regplugins.data.records import OUTPUTS
from regplugins.engines.folders import discard_results
from regplugins.handlers import SummaryTable, correlation, folding_percent, mean_dice, negative_endpoint_error
from regplugins.io import read_transform, write_transform
from regplugins.report.table import summarize
from regplugins.spatial import AffineTransform, DisplacementField, Grid
from regplugins.transforms import ApplyDDFPaird, EvaluatePaird, SavePaird, SwapPaird
from tests.itk_truth import GRIDS, read_field, transform_points, translation

SHAPE = (20, 22, 18)
SHIFT = 2


@pytest.fixture
def registered(tmp_path):
    """The moving image is the fixed one shifted by two voxels of 1.5 mm along the first axis; the field says so."""
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    fixed = gaussian_filter(np.random.default_rng(0).random(SHAPE), 2).astype(np.float32)
    moving = np.roll(fixed, SHIFT, axis=0)
    label = np.zeros(SHAPE, np.int32)
    label[6:12, 8:14, 5:11] = 1
    arrays = {"fixed": fixed, "moving": moving, "fixed_label": label, "moving_label": np.roll(label, SHIFT, axis=0)}
    paths = {}
    pair: dict = {"seconds": {"network": 0.25}, "landmark_space": "LPS", "name": "shifted"}
    for key, array in arrays.items():
        paths[key] = str(tmp_path / f"{key}.nii.gz")
        nib.save(nib.Nifti1Image(array, affine), paths[key])
        pair[key] = MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine))
    pair["moving_label"].meta["stored_dtype"] = np.dtype(np.uint8)
    paths["fixed_landmarks"] = str(tmp_path / "points.csv")
    (tmp_path / "points.csv").write_text("x,y,z,name\n-15,-15,12,a\n-12,-18,15,b\n")
    pair["fixed_landmarks"] = torch.tensor([[15.0, 15, 12], [12, 18, 15]])
    pair["moving_landmarks"] = pair["fixed_landmarks"] + torch.tensor([SHIFT * 1.5, 0, 0])
    ddf = torch.zeros(1, 3, *SHAPE)
    ddf[:, 0] = SHIFT
    grid = Grid(SHAPE, torch.from_numpy(affine))
    pair |= {"paths": paths, "initial": AffineTransform.identity(3), "grid": grid, "pred": ddf}
    return EvaluatePaird()(ApplyDDFPaird()(pair))


def test_figures_of_a_shift(registered):
    measures = registered["metrics"]
    assert measures["similarity"]["ncc"]["after"] == pytest.approx(1, abs=1e-5)
    assert measures["similarity"]["ncc"]["before"] < 0.9
    # A box of 6 voxels shifted by 2: 4 of 6 overlap.
    assert measures["overlap"]["before"]["1"]["dice"] == pytest.approx(4 / 6)
    assert measures["overlap"]["after"]["mean"] == {"dice": 1.0, "hd95": 0.0, "asd": 0.0}
    assert measures["tre_mm"]["before"] == {name: pytest.approx(3) for name in ("mean", "median", "max")}
    assert measures["tre_mm"]["after"] == {name: pytest.approx(0, abs=1e-5) for name in ("mean", "median", "max")}
    assert measures["coverage_percent"] == {"before": 100, "after": pytest.approx(100 * (1 - SHIFT / SHAPE[0]))}
    assert measures["folding_percent"] == 0
    assert measures["sd_log_jacobian"] == pytest.approx(0, abs=1e-6)
    assert measures["mean_jacobian"] == pytest.approx(1)
    assert measures["inverse_consistency_mm"]["p95"] < 0.01
    assert measures["inverse_consistency_mm"]["max"] < 0.01
    assert mean_dice(registered) == 1.0
    assert folding_percent(registered) == 0.0
    assert correlation(registered) == measures["similarity"]["ncc"]["after"]


def with_labels(pair, fixed, moving):
    """The pair with other label maps (arrays), applied and evaluated again."""
    names = ("fixed", "moving", "pred", "grid", "initial", "paths", "name", "landmark_space")
    again = {name: pair[name] for name in names} | {"seconds": {"network": 0.25}}
    for key, array in (("fixed_label", fixed), ("moving_label", moving)):
        again[key] = MetaTensor(torch.from_numpy(array)[None], affine=pair["fixed"].affine)
    return EvaluatePaird()(ApplyDDFPaird()(again))


def test_means_are_over_the_labels_that_both_maps_had(registered):
    """Label 1 matches; the shift takes 2 out of the fixed image; 3 and 4 are in one map each."""
    fixed = registered["fixed_label"][0].numpy().copy()
    moving = registered["moving_label"][0].numpy().copy()
    fixed[16, 3:6, 3:6], moving[1, 3:6, 3:6] = 2, 2
    fixed[15, 15:18, 3:6], moving[15, 15:18, 12:15] = 3, 4
    found = with_labels(registered, fixed, moving)
    measures = found["metrics"]
    assert measures["labels"] == {
        "both": 2,
        "only_fixed": [3],
        "only_moving": [4],
        "lost": {"before": [], "after": [2]},
    }
    assert set(measures["overlap"]["after"]) == {"1", "2", "mean"}
    assert measures["overlap"]["after"]["mean"] == {"dice": 0.5, "hd95": 0.0, "asd": 0.0}
    (message,) = [text for text in found["warnings"] if "lost" in text]
    path = registered["paths"]["moving_label"]
    assert message == f"{path}: lost by the transform: label 2; counted as Dice 0, left out of the mean distances"


def test_no_common_label_is_a_warning(registered):
    fixed = registered["fixed_label"][0].numpy()
    found = with_labels(registered, fixed, 5 * registered["moving_label"][0].numpy())
    assert "overlap" not in found["metrics"]
    assert found["metrics"]["labels"] == {"both": 0, "only_fixed": [1], "only_moving": [5]}
    assert any("no label in common" in text for text in found["warnings"])
    with pytest.raises(ValueError, match=r"fixed_label\.nii\.gz: only background"):
        with_labels(registered, 0 * fixed, fixed)


def test_mean_jacobian_of_an_affine_field_is_its_determinant(registered):
    matrix = torch.tensor([[1.1, 0.2, 0.0], [0.0, 0.8, 0.1], [0.0, 0.0, 1.05]])
    index = torch.stack(torch.meshgrid(*(torch.arange(size) * 1.0 for size in SHAPE), indexing="ij"))
    ddf = torch.einsum("ab,b...->a...", matrix - torch.eye(3), index)
    measures = EvaluatePaird()({**registered, "field": DisplacementField.from_ddf(ddf, registered["grid"])})["metrics"]
    assert measures["mean_jacobian"] == pytest.approx(float(torch.linalg.det(matrix)), rel=1e-4)


def test_the_largest_error_of_the_inverse_and_its_place_are_found(registered):
    """One voxel of the inverse is off by 4 mm; the field maps the point 3 mm before it there."""
    inverse = DisplacementField(registered["inverse"].vectors.clone(), registered["grid"])
    inverse.vectors[1, 12, 7, 9] += 4
    found = EvaluatePaird()({**registered, "inverse": inverse})["metrics"]["inverse_consistency_mm"]
    assert found["max"] == pytest.approx(4, abs=0.01)
    assert found["max_at"] == pytest.approx([15.0, 10.5, 13.5], abs=1e-3)
    assert found["p95"] < 0.01


@pytest.mark.parametrize("name", ["oblique", "anisotropic", "permuted", "2-D oblique"])
def test_coarser_fields_warp_as_the_full_ones_up_to_the_border(name, tmp_path):
    """By ITK, whose field is zero outside its grid; the field changes by 4 mm over the image and moves its border."""
    grid = GRIDS[name]
    n = grid.ndim
    network = grid.canonical().resized([3.0] * n)
    u = (network.coordinates() - grid.center) / 40
    vectors = torch.stack([2 + torch.sin(u.sum(dim=-1) + k) for k in range(n)])
    field = DisplacementField(vectors, network)
    image = MetaTensor(torch.rand(1, *grid.shape), affine=grid.affine)
    loaded = {"fixed": image, "moving": image, "paths": {"fixed": "f", "moving": "m"}, "seconds": {}, "grid": network}
    files = {}
    for spacing in (None, 6.0):
        pair = {**loaded, "pred": field.to_ddf()[None], "initial": AffineTransform.identity(n)}
        pair = EvaluatePaird()(ApplyDDFPaird()({**pair, "seconds": {}}))
        (tmp_path / str(spacing)).mkdir()
        SavePaird(tmp_path, field_spacing=spacing)._write_files(pair, tmp_path / str(spacing))
        files[spacing] = tmp_path / str(spacing)
    images = [sitk.ReadImage(files[spacing] / "warped.nii.gz") for spacing in files]
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, images))
    points = grid.coordinates().reshape(-1, n)
    for file in ("transform_1Warp.nii.gz", "transform_1InverseWarp.nii.gz"):
        stored = [sitk.ReadImage(files[spacing] / file, sitk.sitkVectorFloat64) for spacing in files]
        assert stored[1].GetNumberOfPixels() < stored[0].GetNumberOfPixels()
        full, coarse = (transform_points(sitk.DisplacementFieldTransform(part), points) for part in stored)
        assert (coarse - full).norm(dim=1).max() < 0.05 * grid.spacing.min()
        assert (full - points).norm(dim=1).min() > 0.5


@pytest.mark.parametrize(("amplitude", "warned"), [(0.01, False), (3.0, True)])
def test_loss_of_coarser_fields_is_reported(registered, tmp_path, monkeypatch, amplitude, warned):
    """A field with a wave of eight voxels, of which little is left at four; by ITK, in voxels of 1.5 mm."""
    monkeypatch.setattr("regplugins.spatial.transforms._CHUNK_POINTS", 3 * SHAPE[1] * SHAPE[2])
    ddf = torch.zeros(1, 3, *SHAPE)
    ddf[:, 1] = amplitude / 1.5 * torch.sin(torch.arange(SHAPE[0]) * torch.pi / 4)[:, None, None]
    pair = {key: registered[key] for key in ("fixed", "moving", "paths", "grid", "initial", "name", "landmark_space")}
    pair = EvaluatePaird()(ApplyDDFPaird()({**pair, "seconds": {}, "pred": ddf}))
    images = {}
    for spacing in (None, 6.0):
        SavePaird(tmp_path / str(spacing), field_spacing=spacing)(pair)
        folder = tmp_path / str(spacing) / "shifted"
        images[spacing] = Image.open(folder / "report.png").size
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    points = registered["grid"].coordinates().reshape(-1, 3)
    for way, file in (("forward", "transform_1Warp.nii.gz"), ("inverse", "transform_1InverseWarp.nii.gz")):
        full, coarse = (transform_points(read_field(tmp_path / k / "shifted" / file), points) for k in ("None", "6.0"))
        expected = float((full - coarse).norm(dim=1).max()) / 1.5
        assert report["field_spacing_error_voxels"][way] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    messages = [text for text in report["warnings"] if "--field_spacing" in text]
    assert len(messages) == warned
    assert (images[6.0][1] > images[None][1]) == warned  # the picture has a line more for it
    if warned:
        losses = report["field_spacing_error_voxels"]
        assert messages[0] == (
            f"{pair['paths']['moving']}: the displacement fields stored at 6 mm differ from the full ones by up to "
            f"{max(losses.values()):.2g} voxel (forward {losses['forward']:.2g}, inverse {losses['inverse']:.2g}); "
            "give a smaller --field_spacing"
        )
    assert "field_spacing_error_voxels" not in json.loads(
        (tmp_path / "None" / "shifted" / "report.json").read_text(encoding="utf-8")
    )


def endpoint_errors(pair, truth, mask=None):
    """Measures of a pair whose true transform is known."""
    more = {"truth": truth}
    if mask is not None:
        more["fixed_mask"] = MetaTensor(mask[None], affine=pair["fixed"].affine)
    return EvaluatePaird()({**pair, **more})["metrics"]["endpoint_error_mm"]


def test_distance_from_the_truth(registered):
    """The field shifts by 3 mm along x; before it nothing moved."""
    assert "endpoint_error_mm" not in registered["metrics"]
    perfect = endpoint_errors(registered, translation(SHIFT * 1.5, 0.0, 0.0))
    assert perfect["before"] == {"mean": pytest.approx(3), "p95": pytest.approx(3)}
    assert perfect["after"] == {"mean": pytest.approx(0, abs=1e-5), "p95": pytest.approx(0, abs=1e-5)}
    other = endpoint_errors(registered, translation(3.0, 4.0, 12.0))
    assert other["before"] == {"mean": pytest.approx(13), "p95": pytest.approx(13)}
    assert other["after"] == {"mean": pytest.approx(160**0.5), "p95": pytest.approx(160**0.5)}


def test_distance_from_the_truth_where_the_mask_is_set(registered):
    """The truth moves a voxel along z by a tenth of a millimeter for each that lies below it."""
    grid = registered["grid"]
    vectors = torch.zeros(3, *SHAPE)
    vectors[0] = SHIFT * 1.5
    vectors[2] = 0.1 * torch.arange(SHAPE[2])
    truth = DisplacementField(vectors, grid)
    errors = 0.1 * np.arange(SHAPE[2])
    everywhere = endpoint_errors(registered, truth)["after"]
    assert everywhere["mean"] == pytest.approx(errors.mean(), abs=1e-5)
    every_voxel = np.sort(np.repeat(errors, SHAPE[0] * SHAPE[1]))
    assert everywhere["p95"] == pytest.approx(every_voxel[round(0.95 * (len(every_voxel) - 1))], abs=1e-5)
    mask = torch.zeros(SHAPE, dtype=torch.int32)
    mask[4:9, 3:5, 10:12] = 7
    within = endpoint_errors(registered, truth, mask)
    assert within["after"]["mean"] == pytest.approx(1.05, abs=1e-5)
    assert within["after"]["p95"] == pytest.approx(1.1, abs=1e-5)
    assert within["before"]["mean"] == pytest.approx((np.hypot(3, 1.0) + np.hypot(3, 1.1)) / 2, abs=1e-5)


def test_endpoint_error_includes_the_initial_transform(registered):
    """The error after registration is that of initial transform and field together."""
    pair = {**registered, "start": translation(0.0, 0.0, 5.0), "initial": translation(0.0, 0.0, 5.0)}
    errors = endpoint_errors(pair, translation(3.0, 0.0, 5.0))
    assert errors["before"]["mean"] == pytest.approx(3)
    assert errors["after"]["mean"] == pytest.approx(0, abs=1e-5)


def test_negative_endpoint_error(registered):
    near, far = (
        negative_endpoint_error(EvaluatePaird()({**registered, "truth": translation(SHIFT * 1.5, error, 0.0)}))
        for error in (0.5, 2.0)
    )
    assert near == pytest.approx(-0.5)
    assert far == pytest.approx(-2)
    assert near > far
    with pytest.raises(ValueError, match="no true transform"):
        negative_endpoint_error(registered)


def test_an_empty_mask_measures_nothing(registered):
    errors = endpoint_errors(registered, translation(3.0, 0.0, 0.0), torch.zeros(SHAPE, dtype=torch.int32))
    assert all(math.isnan(value) for statistics in errors.values() for value in statistics.values())


def test_files_agree_with_itk(registered, tmp_path):
    SavePaird(tmp_path / "out")(registered)
    out = tmp_path / "out/shifted"
    fixed = sitk.ReadImage(registered["paths"]["fixed"])
    for name in ("warped", "warped_label"):
        image = sitk.ReadImage(str(out / f"{name}.nii.gz"))
        assert image.GetSize() == fixed.GetSize()
        assert image.GetOrigin() == pytest.approx(fixed.GetOrigin())
        assert image.GetDirection() == pytest.approx(fixed.GetDirection())
    assert sitk.ReadImage(str(out / "warped_label.nii.gz")).GetPixelID() == sitk.sitkUInt8
    inside = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "warped.nii.gz")))[:, :, :-SHIFT]
    np.testing.assert_allclose(inside, sitk.GetArrayFromImage(fixed)[:, :, :-SHIFT], atol=1e-5)
    with (out / "warped_landmarks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a", "b"]
    assert float(rows[0]["x"]) == pytest.approx(-15 - SHIFT * 1.5)  # LPS, as they were given
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["name"] == "shifted"
    assert set(report["inputs"]) == set(registered["paths"])
    assert report["weights"] is None
    assert report["seconds"]["network"] == 0.25


def test_failure_leaves_no_report(registered, tmp_path):
    SavePaird(tmp_path)(registered)
    del registered["displacement"]
    with pytest.raises(KeyError):
        SavePaird(tmp_path)(registered)
    assert not (tmp_path / "shifted/report.json").exists()


def test_files_of_an_earlier_run_are_removed(registered, tmp_path):
    photographs = {"warped.png", "warped.tif"}
    (tmp_path / "shifted").mkdir()
    for name in photographs:
        (tmp_path / "shifted" / name).touch()
    synthesized = {"moving": torch.rand(1, *SHAPE), "fixed": torch.rand(1, *SHAPE)}
    SavePaird(tmp_path)({**registered, "synthesized": synthesized})
    assert {path.name for path in (tmp_path / "shifted").iterdir()} == set(OUTPUTS) - photographs
    bare = {key: value for key, value in registered.items() if key not in ("warped_label", "warped_landmarks")}
    SavePaird(tmp_path)(bare)
    left = {path.name for path in (tmp_path / "shifted").iterdir()}
    optional = {"warped_label.nii.gz", "warped_landmarks.csv", "synthesized_moving.nii.gz", "synthesized_fixed.nii.gz"}
    assert left == set(OUTPUTS) - optional - photographs


def test_an_input_is_not_overwritten(registered, tmp_path):
    own = tmp_path / "shifted" / "warped.nii.gz"
    own.parent.mkdir()
    own.write_bytes(b"an image")
    pair = {**registered, "paths": {**registered["paths"], "moving": str(own)}}
    with pytest.raises(ValueError, match=r"warped\.nii\.gz: is an input"):
        SavePaird(tmp_path)(pair)
    assert own.read_bytes() == b"an image"


def test_a_folder_of_slices_is_not_written_into(tmp_path):
    (tmp_path / "dicom").mkdir()
    record = {"fixed": str(tmp_path / "dicom"), "moving": str(tmp_path / "moving.nii.gz")}
    slice_named_alike = tmp_path / "dicom/report.json"
    slice_named_alike.touch()
    for folder, pair in (("dicom/out", record), ("dicom", record), (".", {**record, "name": "dicom"})):
        given = {key: path for key, path in pair.items() if key != "name"}
        discard_results(tmp_path / folder, given, "none")
        with pytest.raises(ValueError, match=rf"lies in the input {tmp_path}/dicom; choose"):
            SavePaird(tmp_path / folder).refuse_overwriting_inputs([pair])
    assert slice_named_alike.exists()
    SavePaird(tmp_path / "out").refuse_overwriting_inputs([record])


def test_a_run_that_fails_leaves_no_table_of_an_earlier_one(registered, tmp_path):
    (tmp_path / "summary.csv").write_text("name\nold\n")
    (tmp_path / "summary.json").write_text("{}")

    def fail(engine: Engine, batch: dict) -> dict:
        raise ValueError("no good")

    engine = Engine(fail)
    SummaryTable(tmp_path / "summary.csv", tmp_path / "summary.json").attach(engine)
    with pytest.raises(ValueError, match="no good"):
        engine.run([registered])
    assert not list(tmp_path.glob("summary.*"))


def test_summary_is_the_mean_and_spread_of_the_rows():
    rows = [{"name": "a", "dice": 0.5, "hd95": math.nan}, {"name": "b", "dice": 0.7, "hd95": 2.0}]
    summary = summarize(rows)
    assert set(summary) == {"dice", "hd95"}
    assert summary["dice"] == {"n": 2, "mean": pytest.approx(0.6), "sd": pytest.approx(np.std([0.5, 0.7], ddof=1))}
    assert summary["hd95"] == {"n": 1, "mean": 2.0, "sd": 0.0}


def test_table_has_a_row_a_pair(registered, tmp_path):
    def step(engine: Engine, batch: dict) -> dict:
        return {}

    engine = Engine(step)
    SummaryTable(tmp_path / "new/summary.csv", tmp_path / "new/summary.json", by_label=True).attach(engine)
    engine.run([registered, {**registered, "name": "again"}])
    with (tmp_path / "new/summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["shifted", "again"]
    assert float(rows[0]["dice_1_before"]) == pytest.approx(4 / 6)
    assert float(rows[0]["tre_mean_before"]) == pytest.approx(3)
    assert rows[0]["endpoint_error_mean_after"] == ""
    assert json.loads((tmp_path / "new/summary.json").read_text(encoding="utf-8"))["dice_mean_after"]["n"] == 2


def test_unidirectional_network_has_no_backward_pair(registered):
    assert "backward" not in SwapPaird([EvaluatePaird()])(registered)


def test_backward_direction_has_columns(registered, tmp_path):
    """The backward half of the field is zero, so that the backward pair stays as it was."""
    pair = {key: value for key, value in registered.items() if key != "metrics"}
    pair["pred"] = torch.cat([pair["pred"], torch.zeros_like(pair["pred"])], dim=1)
    pair["fixed_label"].meta["stored_dtype"] = np.dtype(np.uint8)
    pair["paths"]["moving_landmarks"] = pair["paths"]["fixed_landmarks"]
    both = EvaluatePaird()(ApplyDDFPaird()(SwapPaird([EvaluatePaird(), SavePaird(tmp_path)])(pair)))
    assert (tmp_path / "shifted/backward/report.json").is_file()
    table = SummaryTable(tmp_path / "metrics.csv", by_label=True)

    class State:
        batch: dict = pair
        output = both

    table.collect(type("Engine", (), {"state": State}))
    (row,) = table.rows
    assert row["dice_1_after"] == row["dice_mean_after"] == 1
    assert row["backward_dice_1_after"] == row["backward_dice_mean_after"] == pytest.approx(4 / 6)
    assert row["cycle_consistency_mean"] == pytest.approx(SHIFT * 1.5)
    assert row["backward_cycle_consistency_mean"] is None


def test_report_and_table_hold_the_distance_from_the_truth(registered, tmp_path):
    def step(engine: Engine, batch: dict) -> dict:
        return {}

    paths = {**registered["paths"], "truth": str(tmp_path / "truth.mat")}
    write_transform(translation(SHIFT * 1.5, 2.0, 0.0), paths["truth"])
    pair = EvaluatePaird()({**registered, "truth": read_transform(paths["truth"]), "paths": paths})
    SavePaird(tmp_path / "out")(pair)
    report = json.loads((tmp_path / "out/shifted/report.json").read_text(encoding="utf-8"))
    assert report["endpoint_error_mm"]["before"]["mean"] == pytest.approx(13**0.5)
    assert report["endpoint_error_mm"]["after"]["p95"] == pytest.approx(2)
    assert report["inputs"]["truth"]["path"] == paths["truth"]
    engine = Engine(step)
    SummaryTable(tmp_path / "summary.csv", tmp_path / "summary.json").attach(engine)
    engine.run([pair])
    with (tmp_path / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["endpoint_error_mean_before"]) == pytest.approx(13**0.5)
    assert float(row["endpoint_error_mean_after"]) == pytest.approx(2)
