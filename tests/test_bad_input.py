# SPDX-License-Identifier: Apache-2.0
"""Commands refuse files that are no good, name them, and write nothing."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from regplugins.__main__ import main
from regplugins.io import write_landmarks, write_transform
from regplugins.spatial import AffineTransform
from tests.itk_truth import GRIDS, points_in, random_field, write_image

BUNDLE = Path(__file__).resolve().parents[1] / "bundles/hippocampus_mr_multires_fcn"
GRID = GRIDS["oblique"]


def nifti(values: np.ndarray) -> Callable[[Path], None]:
    return lambda path: nib.save(nib.Nifti1Image(values, np.eye(4)), path)


def cut(path: Path) -> None:
    write_image(torch.rand(GRID.shape), GRID, path)
    path.write_bytes(path.read_bytes()[:-2000])


NOISE = np.random.default_rng(0).random((8, 8, 8))
IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "no voxels": (nifti(np.zeros((8, 8, 0))), "empty image"),
    "truncated": (cut, "cannot be read"),
    "NaN": (nifti(np.full((8, 8, 8), np.nan)), "all voxels are NaN"),
    "text": (lambda path: path.write_text("a scan"), "cannot be read"),
    "4-D": (nifti(np.stack([NOISE, NOISE], axis=3)), "4-D"),
    "infinity": (nifti(np.where(NOISE > 0.99, np.inf, NOISE)), "infinite"),
    "constant": (nifti(np.ones((8, 8, 8))), "constant"),
    "sheared": (lambda path: nib.save(nib.Nifti1Image(NOISE, np.eye(4) + 0.3 * np.eye(4, k=1)), path), "right angles"),
    "complex": (nifti(NOISE.astype(np.complex64)), "type complex64"),
}
ON_IMAGES = {
    "align": "align good.nii.gz bad.nii.gz --output_dir out",
    "apply": "apply good.mat --image bad.nii.gz --reference good.nii.gz --output out.nii.gz",
    "report": "report out good.mat --fixed good.nii.gz --moving bad.nii.gz",
    "register": f"register --bundle {BUNDLE} --output_dir out --fixed good.nii.gz --moving bad.nii.gz",
}
TRANSFORMS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a transform"),
}
ON_TRANSFORMS = {
    "apply": "apply {bad} --image good.nii.gz --reference good.nii.gz --output out.nii.gz",
    "compose": "compose good.mat {bad} --output out.h5",
    "invert": "invert {bad} --output out.h5",
    "convert": "convert {bad} --output out.h5",
    "report": "report out {bad} --fixed good.nii.gz --moving good.nii.gz",
    "register": f"register --bundle {BUNDLE} --output_dir out --fixed good.nii.gz --moving good.nii.gz --init {{bad}}",
}


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Runs a command that fails, in a folder of good files; gives what it says."""
    monkeypatch.chdir(tmp_path)
    write_image(torch.rand(GRID.shape), GRID, tmp_path / "good.nii.gz")
    write_transform(AffineTransform(torch.eye(4, dtype=torch.float64)), tmp_path / "good.mat")
    write_transform(random_field(GRID), tmp_path / "field.nii.gz")
    write_landmarks(points_in(GRID, 5), tmp_path / "good.csv")

    def call(line: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as error:
            main(line.split())
        assert error.value.code not in (0, None)
        assert sorted(tmp_path.rglob("*")) == before
        return str(error.value.code)

    return call


# All commands read by the same loaders: one meets every fault, the others one.
@pytest.mark.parametrize(
    ("command", "fault"), [*(("align", fault) for fault in IMAGES), *((command, "truncated") for command in ON_IMAGES)]
)
def test_images(refused: Callable[[str], str], tmp_path: Path, command: str, fault: str) -> None:
    make, reason = IMAGES[fault]
    make(tmp_path / "bad.nii.gz")
    answer = refused(ON_IMAGES[command])
    assert "bad.nii.gz" in answer
    assert reason in answer


@pytest.mark.parametrize(
    ("command", "name", "fault"),
    [
        *(("invert", name, fault) for name in ("bad.mat", "bad.txt", "bad.h5", "bad.nii.gz") for fault in TRANSFORMS),
        *((command, "bad.mat", "text") for command in ON_TRANSFORMS),
    ],
)
def test_transforms(refused: Callable[[str], str], tmp_path: Path, command: str, name: str, fault: str) -> None:
    TRANSFORMS[fault](tmp_path / name)
    assert name in refused(ON_TRANSFORMS[command].format(bad=name))


@pytest.mark.parametrize(
    "line",
    [
        "apply field.nii.gz --landmarks bad.csv --output out.csv",
        "evaluate --warped_landmarks bad.csv --moving_landmarks good.csv",
    ],
)
def test_landmarks(refused: Callable[[str], str], tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.csv").write_text("x,y,z\n1,2,three\n")
    assert "bad.csv" in refused(line)
