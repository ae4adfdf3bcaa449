# SPDX-License-Identifier: Apache-2.0
"""Gray images of every format are read, color is refused."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from regplugins.io.images import read_grid, read_volume

NOISE = np.random.default_rng(0).integers(0, 255, (12, 15, 4), np.uint8)


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in ("png", "tiff") for mode in ("L", "I;16")] + [("bmp", "L"), ("jpg", "L")],
)
def test_gray(tmp_path: Path, name: str, mode: str) -> None:
    values = NOISE[..., 0].astype(np.uint8 if mode == "L" else np.uint16) * (1 if mode == "L" else 200)
    Image.fromarray(values).save(tmp_path / f"image.{name}")
    read, grid, _ = read_volume(tmp_path / f"image.{name}")
    np.testing.assert_array_equal(read, np.asarray(Image.open(tmp_path / f"image.{name}")).T)
    assert name == "jpg" or np.array_equal(read, values.T)
    assert grid.shape == (15, 12)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Offset", "nan 2 3"),
        ("Offset", "inf 2 3"),
        ("ElementSpacing", "1 1 a"),
        ("TransformMatrix", "nan 0 0 0 1 0 0 0 1"),
    ],
)
@pytest.mark.parametrize("suffix", ["mha", "mhd"])
def test_a_place_that_is_not_finite_is_refused(tmp_path: Path, suffix: str, key: str, value: str) -> None:
    path = tmp_path / f"image.{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(NOISE), str(path))
    read_volume(path)
    header, rest = re.split(rb"(?m)^%s = .*$" % key.encode(), path.read_bytes())
    path.write_bytes(header + f"{key} = {value}".encode() + rest)
    for read in (read_volume, read_grid):
        with pytest.raises(ValueError, match=rf"image\.{suffix}: its {key} is '{value}', expected finite numbers"):
            read(path)


@pytest.mark.parametrize(
    ("name", "mode", "channels"),
    [
        ("png", "RGB", 3),
        ("png", "RGBA", 4),
        ("png", "LA", 2),
        ("png", "P", 3),
        ("jpg", "RGB", 3),
        ("tiff", "RGB", 3),
        ("bmp", "P", 3),
    ],
)
def test_color(tmp_path: Path, name: str, mode: str, channels: int) -> None:
    Image.fromarray(NOISE[..., :3]).convert(mode).save(tmp_path / f"image.{name}")
    for read in (read_volume, read_grid):
        with pytest.raises(ValueError, match=rf"image\.{name}: {channels} values per voxel \(color or vectors\)"):
            read(tmp_path / f"image.{name}")


def test_color_in_three_dimensions(tmp_path: Path) -> None:
    color = np.zeros((5, 6, 7), [(channel, "u1") for channel in "RGB"])
    nib.save(nib.Nifti1Image(color, np.eye(4)), tmp_path / "image.nii.gz")
    vectors = sitk.GetImageFromArray(np.random.default_rng(0).random((5, 6, 7, 3)), isVector=True)
    for name in ("image.nrrd", "image.mha"):
        sitk.WriteImage(vectors, str(tmp_path / name))
    for name in ("image.nii.gz", "image.nrrd", "image.mha"):
        with pytest.raises(ValueError, match=rf"{name}: 3 values per voxel"):
            read_volume(tmp_path / name)
