# SPDX-License-Identifier: Apache-2.0
"""Errors in the files of a pair are reported when they are read."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from regplugins.io import write_landmarks
from regplugins.transforms import LoadPaird, LoadVolumesd
from tests.itk_truth import GRIDS, points_in, write_image

GRID = GRIDS["anisotropic"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A pair far from the middle of the world, so that the signs of x and y matter."""
    shifted = GRID.affine.clone()
    shifted[:2, 3] += 100
    grid = type(GRID)(GRID.shape, shifted)
    values = np.random.default_rng(0).random(GRID.shape).astype(np.float32)
    for side in ("fixed", "moving"):
        nib.save(nib.Nifti1Image(values, grid.affine.numpy()), tmp_path / f"{side}.nii.gz")
        write_landmarks(points_in(grid, 20), tmp_path / f"{side}.csv", "LPS")
    return {side: str(tmp_path / f"{side}.nii.gz") for side in ("fixed", "moving")} | {
        f"{side}_landmarks": str(tmp_path / f"{side}.csv") for side in ("fixed", "moving")
    }


@pytest.mark.parametrize("fault", ["shape", "place", "order of the voxels"])
def test_a_label_to_train_with_lies_on_its_image(files: dict[str, str], tmp_path: Path, fault: str) -> None:
    image = nib.load(files["fixed"])
    label = (np.asanyarray(image.dataobj) > 0.5).astype(np.uint8)
    record = {"image": files["fixed"], "label": str(tmp_path / "label.nii.gz")}
    nib.save(nib.Nifti1Image(label, image.affine), record["label"])
    assert LoadVolumesd()(record)["label"].shape == (1, *label.shape)
    affine = image.affine.copy()
    if fault == "shape":
        label = label[1:]
    elif fault == "place":
        affine[0, 3] += 5
    else:
        affine[:, 3] += affine[:, 0] * (len(label) - 1)
        affine[:, 0] *= -1
        label = label[::-1]
    nib.save(nib.Nifti1Image(label, affine), record["label"])
    with pytest.raises(ValueError, match=r"label\.nii\.gz: (shape|lies elsewhere) .* its image .*fixed\.nii\.gz"):
        LoadVolumesd()(record)
    assert "label" not in LoadVolumesd()(record | {"label": None})


def test_landmarks_of_the_other_world_are_refused(files: dict[str, str]) -> None:
    assert "warnings" not in LoadPaird("LPS")(files)
    with pytest.raises(
        ValueError,
        match=r"fixed\.csv: 20 of 20 landmarks lie outside .*fixed\.nii\.gz, read as RAS mm; "
        r"as LPS 20 would lie inside, try --landmark_space LPS",
    ):
        LoadPaird("RAS")(files)


def test_landmarks_of_no_world_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "moving.csv").write_text("x,y,z\n" + "0,0,500\n" * 20)
    with pytest.raises(ValueError, match=r"moving\.csv: 20 of 20 landmarks lie outside .* LPS mm$"):
        LoadPaird("LPS")(files)


def test_moving_landmarks_alone_are_named(files: dict[str, str]) -> None:
    alone = {key: path for key, path in files.items() if key != "fixed_landmarks"}
    (warning,) = LoadPaird("LPS")(alone)["warnings"]
    assert warning.startswith(files["moving_landmarks"]) and "not used" in warning


def test_some_landmarks_outside_are_counted(files: dict[str, str], tmp_path: Path) -> None:
    lines = (tmp_path / "moving.csv").read_text().splitlines()
    lines[1:4] = ["0,0,0", "0,0,1000", "1000,0,0"]
    (tmp_path / "moving.csv").write_text("\n".join(lines))
    (warning,) = LoadPaird("LPS")(files)["warnings"]
    assert warning.startswith(f"{files['moving_landmarks']}: 3 of 20 landmarks lie outside {files['moving']}")
    assert "try" not in warning


@pytest.mark.parametrize(("beyond", "told"), [(1.4, False), (1.6, True)])
def test_one_voxel_beyond_the_field_of_view_is_let_pass(tmp_path: Path, beyond: float, told: bool) -> None:
    """From the outermost voxel centers: half a voxel to the border, and one more."""
    values = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    for side in ("fixed", "moving"):
        nib.save(nib.Nifti1Image(values, np.diag([2.0, 3, 4, 1])), tmp_path / f"{side}.nii.gz")
    (tmp_path / "points.csv").write_text(f"x,y,z\n2,3,4\n{2 * (7 + beyond)},3,{-4 * beyond}\n")
    files = {side: str(tmp_path / f"{side}.nii.gz") for side in ("fixed", "moving")}
    loaded = LoadPaird()(files | {"fixed_landmarks": str(tmp_path / "points.csv")})
    assert ("warnings" in loaded) == told


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_an_empty_mask_is_refused(files: dict[str, str], tmp_path: Path, side: str) -> None:
    nib.save(nib.Nifti1Image(np.zeros(GRID.shape, np.uint8), nib.load(files[side]).affine), tmp_path / "mask.nii.gz")
    with pytest.raises(ValueError, match=r"mask\.nii\.gz: the mask is empty"):
        LoadPaird("LPS")(files | {f"{side}_mask": str(tmp_path / "mask.nii.gz")})


def test_an_image_too_wide_for_the_results_is_refused(tmp_path: Path) -> None:
    for name in ("fixed", "moving"):
        Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (2, 200))).save(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"fixed\.png: 40000 x 2 voxels; .* NIfTI"):
        LoadPaird()({name: str(tmp_path / f"{name}.png") for name in ("fixed", "moving")})


def test_doubts_about_headers_are_kept_for_the_report(tmp_path: Path) -> None:
    files = {key: str(tmp_path / f"{key}.nii.gz") for key in ("fixed", "moving", "moving_label")}
    values = np.random.default_rng(0).integers(0, 3, GRID.shape, np.int16)
    for path in files.values():
        write_image(torch.from_numpy(values), GRID, Path(path))
    for key in ("moving", "moving_label"):
        image = nib.load(files[key])
        image = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
        image.set_qform(np.diag([2.0, 2, 2, 1]), 1)
        image.set_sform(image.affine, 2)
        nib.save(image, files[key])
    assert [message.split(":")[0] for message in LoadPaird()(files)["warnings"]] == [
        files["moving"],
        files["moving_label"],
    ]
