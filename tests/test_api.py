# SPDX-License-Identifier: Apache-2.0
"""``regplugins.register``: results against ITK's reading of the files, and what a caller keeps."""

import json
import logging
import random
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.utils import get_seed
from PIL import Image
from scipy.ndimage import gaussian_filter

import regplugins
from regplugins.api import DEFAULT_BUNDLE, RegistrationResult
from regplugins.sharing import find_bundle
from tests.itk_truth import array_of, read_results, transform_points

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "bundles/hippocampus_mr_multires_fcn/sample"
FIXED, MOVING, LABEL = (SAMPLE / f"{name}.nii.gz" for name in ("fixed", "moving", "moving_label"))
LEVELS = [[4.0, 5], [2.0, 2]]
POINTS = np.array([[-26.3, -21.4, -14.2], [-24.1, -17.7, -16.9]])


@pytest.fixture(scope="module")
def result() -> RegistrationResult:
    fixed, moving = sitk.ReadImage(FIXED), nib.load(MOVING)
    return regplugins.register(
        fixed, moving, moving_label=LABEL, fixed_landmarks=POINTS, init="fov", preset="same_modality", levels=LEVELS
    )


@pytest.fixture(scope="module")
def saved(result, tmp_path_factory) -> Path:
    return result.save(tmp_path_factory.mktemp("saved") / "new/folder")


def test_images_in_memory_and_files_give_the_same(result, tmp_path):
    files = regplugins.register(FIXED, str(MOVING), tmp_path, init="fov", preset="same_modality", levels=LEVELS)
    assert torch.equal(files.warped, result.warped)
    assert files.folder == tmp_path and (tmp_path / "report.json").is_file()


def test_apply_is_itk_s_resampling_through_the_saved_files(result, saved):
    fixed, transform = sitk.ReadImage(FIXED), read_results(saved)
    expected = sitk.Resample(sitk.ReadImage(MOVING, sitk.sitkFloat32), fixed, transform, sitk.sitkLinear)
    inner = (slice(2, -2),) * 3
    for image in (result.apply(MOVING), result.apply(nib.load(MOVING)), result.warped):
        np.testing.assert_allclose(image[0].numpy()[inner], array_of(expected)[inner], atol=0.5)
    labels = array_of(sitk.Resample(sitk.ReadImage(LABEL), fixed, transform, sitk.sitkNearestNeighbor))
    found = result.apply(labels=LABEL)
    assert not found.is_floating_point()
    assert (found[0].numpy() == labels).mean() > 0.9995


def test_points_are_those_of_itk(result, saved):
    moving = transform_points(read_results(saved), torch.from_numpy(POINTS)).numpy()
    np.testing.assert_allclose(result.transform(torch.from_numpy(POINTS)), moving, atol=0.01)
    np.testing.assert_allclose(np.loadtxt(saved / "warped_landmarks.csv", delimiter=",", skiprows=1), moving, atol=0.01)
    np.testing.assert_allclose(result.apply(points=moving), POINTS, atol=0.05)


def test_what_was_saved_is_what_the_result_shows(result, saved):
    assert {path.name for path in saved.iterdir()} >= {"warped.nii.gz", "warped_label.nii.gz", "report.png"}
    assert result.report["inputs"].keys() == {"fixed", "moving", "moving_label", "fixed_landmarks"}
    again = RegistrationResult(saved)
    assert again.report == result.report
    assert again.figure().size == result.figure().size
    with pytest.raises(NotADirectoryError, match="is a file"):
        result.save(saved / "report.json")
    before = (result.folder / "report.json").read_bytes()
    assert result.save(result.folder) == result.folder
    assert (result.folder / "report.json").read_bytes() == before


def test_a_result_stays_that_of_its_folder_and_of_its_registration(result, tmp_path, monkeypatch):
    result.save(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    found = RegistrationResult(Path("own"))
    monkeypatch.chdir("/")
    found.report["subject"] = "a note of one's own"
    assert torch.equal(found.warped, result.warped)
    report = tmp_path / "own/report.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | {"name": "another"}))
    for use in (found.figure, lambda: found.transform, lambda: found.save(tmp_path / "copy")):
        with pytest.raises(ValueError, match="own: holds the results of another registration now"):
            use()


def test_saving_removes_other_results_and_no_input(result, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    others = ("report.json", "backward/report.json", "warped.tif", "summary.csv", "report.html")
    for name in others:
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).touch()
    (own / "summary.csv").write_text("name,seconds\npair,1\n")
    result.save(own)
    assert [name for name in others if (own / name).exists()] == ["report.json", "summary.csv"]
    assert (own / "summary.csv").read_bytes() == (result.folder / "summary.csv").read_bytes()
    (own / "summary.csv").write_text("name,seconds\nfirst,1\n")  # of the pairs of a datalist
    result.save(own)
    assert (own / "summary.csv").read_text() == "name,seconds\nfirst,1\n"
    moving = shutil.copy(MOVING, own / "warped.nii.gz")
    options = {"init": "fov", "levels": [[4.0, 1]]}
    with pytest.raises(ValueError, match=r"warped\.nii\.gz: is an input"):
        regplugins.register(FIXED, moving, **options).save(own)
    with pytest.raises(ValueError, match=r"warped\.nii\.gz: is an input"):
        regplugins.register(FIXED, nib.load(moving), own, **options)
    with pytest.raises(ValueError, match=r"warped\.nii\.gz: is an input"):
        regplugins.register(FIXED, nib.load(moving), **options).save(own)
    assert moving.read_bytes() == MOVING.read_bytes()


def test_a_temporary_folder_lasts_as_long_as_the_result(tmp_path, monkeypatch):
    """And nothing that lies in the current folder is taken for the default bundle."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT_BUNDLE / "configs").mkdir(parents=True)
    (tmp_path / DEFAULT_BUNDLE / "configs/inference.json").write_text("{}")
    result = regplugins.register(FIXED, MOVING, init="fov", levels=np.array([[4, 1]]))
    assert list(tmp_path.glob("regplugins-*")) == [result.folder]
    del result
    assert not list(tmp_path.glob("regplugins-*"))


def test_the_process_stays_as_it_was():
    """A network that is in training goes on with its own random numbers."""

    def state() -> tuple[object, ...]:
        loggers = map(logging.getLogger, ("ignite", "regplugins"))
        messages = [(logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
        numbers = random.random(), np.random.rand(), float(torch.rand(()))
        return *numbers, logging.getLogger().level, messages, sys.path[:], get_seed()

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    expected = state()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    regplugins.register(FIXED, MOVING, init="fov", levels=[[4.0, 1]])
    assert state() == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"moving": np.zeros((4, 4, 4))}, TypeError, "^moving: expected"),
        ({"moving": (np.zeros((8, 8, 8)), np.eye(4))}, ValueError, "moving.nii: constant image"),
        ({"moving": "nowhere.nii.gz"}, FileNotFoundError, "^moving nowhere.nii.gz: no such file"),
        ({"bundle": "any_modality"}, FileNotFoundError, f"any_modality .*Known by name: .*{DEFAULT_BUNDLE}"),
        ({"preset": "same"}, ValueError, "preset must be one of .*'same_modality'"),
        ({"spacng": 2.0}, ValueError, "unknown option --spacng; did you mean --spacing"),
        ({"similarity": {"_target_": "os.system"}}, ValueError, "definition"),
    ],
)
def test_mistakes_leave_nothing(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        regplugins.register(**{"fixed": FIXED, "moving": MOVING, "output_dir": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_photographs_keep_their_colors(tmp_path):
    """Two of one scene, shifted by three pixels: each channel is what ITK resamples through the files."""
    scene = gaussian_filter(np.random.default_rng(0).random((90, 100, 3)), (5, 5, 0))
    scene = (255 * (scene - scene.min()) / np.ptp(scene)).astype(np.uint8)
    Image.fromarray(scene[5:75, 5:85]).save(tmp_path / "fixed.jpg", quality=95)
    Image.fromarray(scene[5:75, 8:88]).save(tmp_path / "moving.png")
    options = {"init": "none", "spacing": 1.0, "levels": [[2.0, 60], [1.0, 40]]}
    result = regplugins.register(tmp_path / "fixed.jpg", tmp_path / "moving.png", tmp_path / "out", **options)
    found = np.asarray(Image.open(tmp_path / "out/warped.png"))
    assert np.abs(found[8:-8, 8:-8].astype(float) - scene[13:67, 13:77]).mean() < 5
    transform = read_results(result.folder)
    for channel in range(3):
        moving = sitk.GetImageFromArray(scene[5:75, 8:88, channel].astype(np.float32))
        expected = sitk.GetArrayFromImage(sitk.Resample(moving, moving, transform))
        np.testing.assert_allclose(found[..., channel], expected, atol=1)


def test_points_beyond_the_field_are_counted(result, caplog):
    inside = result.transform(torch.from_numpy(POINTS))
    far = inside.clone()
    far[:2] += 500.0
    for points, message in ((inside, ""), (far, f"2 of {len(POINTS)} points lie outside")):
        caplog.clear()
        result.apply(points=points)
        assert message in caplog.text and bool(caplog.text) == bool(message)
    with pytest.raises(ValueError, match=r"finite numbers of shape \(N, 3\)"):
        result.apply(points=torch.full((2, 3), torch.nan))


@pytest.mark.parametrize("given", [{}, {"image": MOVING, "points": POINTS}])
def test_apply_takes_one_thing(result, given):
    with pytest.raises(TypeError, match="give one of image, labels and points"):
        result.apply(**given)


def test_what_lies_elsewhere_is_not_applied_to(result):
    away = nib.load(MOVING)
    away = nib.Nifti1Image(away.dataobj, away.affine + np.outer([1, 0, 0, 0], [0, 0, 0, 900]))
    for given in ({"image": away}, {"labels": (np.ones((4, 4, 4), np.uint8), away.affine)}):
        with pytest.raises(ValueError, match="apply: what was given does not overlap the fixed image"):
            result.apply(**given)
    with pytest.raises(ValueError, match="apply: what was given is 2-D, the registered images are 3-D"):
        result.apply((np.arange(16.0).reshape(4, 4), np.eye(3)))


def test_a_bundle_is_found_by_folder_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_bundle(DEFAULT_BUNDLE) == ROOT / "bundles" / DEFAULT_BUNDLE
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    for folder in (tmp_path / "hub/bundle/mine", tmp_path / "here"):
        (folder / "configs").mkdir(parents=True)
        (folder / "configs/inference.json").write_text("{}")
    assert find_bundle("mine") == tmp_path / "hub/bundle/mine"
    assert find_bundle("here") == Path("here")
    with pytest.raises(FileNotFoundError, match="Known by name"):
        find_bundle("../hub/bundle/mine/..")
