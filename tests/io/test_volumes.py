# SPDX-License-Identifier: Apache-2.0
"""Gray images of every format are read, and photographs in color by their luminance."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from regplugins.io import load_image, load_label
from regplugins.io.images import read_grid, read_volume
from regplugins.io.photographs import read_channels, write_channels
from regplugins.spatial import Grid

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
    ("name", "mode"),
    [("png", "RGB"), ("png", "RGBA"), ("png", "P"), ("jpg", "RGB"), ("tiff", "RGB"), ("bmp", "P")],
)
def test_color_is_read_as_luminance(tmp_path: Path, name: str, mode: str) -> None:
    path = tmp_path / f"image.{name}"
    Image.fromarray(NOISE[..., :3]).convert(mode).save(path)
    gray = np.asarray(Image.open(path).convert("RGB").convert("L"))
    image = load_image(path)
    np.testing.assert_allclose(image[0].numpy().T, gray, atol=6 if name == "jpg" else 1)  # decoders of JPEG differ
    assert read_grid(path)[0].matches(Grid.from_image(image))
    with pytest.raises(ValueError, match=rf"image\.{name}: \d values per voxel \(color or vectors\)"):
        load_label(path)


def test_gray_with_opacity_is_refused(tmp_path: Path) -> None:
    Image.fromarray(NOISE[..., :3]).convert("LA").save(tmp_path / "image.png")
    for read in (load_image, read_grid):
        with pytest.raises(ValueError, match=r"image\.png: 2 values per voxel \(color or vectors\)"):
            read(tmp_path / "image.png")


@pytest.mark.parametrize(
    ("name", "mode"), [("png", "L"), ("png", "RGB"), ("png", "RGBA"), ("png", "I;16"), ("tif", "RGB"), ("tif", "I;16")]
)
def test_channels_are_written_as_they_were_read(tmp_path: Path, name: str, mode: str) -> None:
    given = NOISE[..., 0].astype(np.uint16) * 200
    if mode != "I;16":
        given = np.asarray(Image.fromarray(NOISE[..., :3]).convert(mode))
    Image.fromarray(given).save(tmp_path / f"image.{name}")
    channels = read_channels(tmp_path / f"image.{name}")
    grid = Grid.from_image(load_image(tmp_path / f"image.{name}"))
    write_channels(channels.float() + 0.3, channels.dtype, grid, tmp_path / f"again.{name}")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"again.{name}")), given)


@pytest.mark.parametrize("name", ["png", "jpg", "bmp"])
def test_the_density_of_other_photographs_is_no_size(tmp_path: Path, name: str) -> None:
    Image.fromarray(NOISE[..., :3]).save(tmp_path / f"image.{name}", dpi=(72, 72))
    assert read_grid(tmp_path / f"image.{name}")[0].spacing.tolist() == [1.0, 1.0]


def test_color_of_16_bits_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(NOISE[..., :3].astype(np.uint16), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "image.png"))
    with pytest.raises(ValueError, match=r"image\.png: color of more than 8 bits"):
        load_image(tmp_path / "image.png")


@pytest.mark.parametrize("name", ["nrrd", "mha", "nii"])
def test_labels_of_64_bits_are_read(tmp_path: Path, name: str) -> None:
    labels = np.arange(60).reshape(3, 4, 5)
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / f"labels.{name}"))
    np.testing.assert_array_equal(load_label(tmp_path / f"labels.{name}")[0].numpy().T, labels)


@pytest.mark.parametrize("kind", [np.int8, np.uint64])
@pytest.mark.parametrize("name", ["nrrd", "mha", "vtk", "hdr"])
def test_labels_of_rare_types_are_read(tmp_path: Path, name: str, kind: type) -> None:
    labels = np.arange(60, dtype=kind).reshape(3, 4, 5)
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / f"labels.{name}"))
    np.testing.assert_array_equal(load_label(tmp_path / f"labels.{name}")[0].numpy().T, labels)


@pytest.mark.parametrize("given", ["image.NII", "image.NII.GZ", "image.img", "image.hdr", "image.gipl", "image.vtk"])
def test_a_file_cut_off_is_refused(tmp_path: Path, given: str) -> None:
    name = given.replace("hdr", "img")
    written = tmp_path / f"image{name[5:].lower()}"
    sitk.WriteImage(sitk.GetImageFromArray(NOISE), str(written))
    path = written.rename(tmp_path / name)
    np.testing.assert_array_equal(load_image(tmp_path / given)[0].numpy().T, NOISE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=re.escape(name)):
        load_image(tmp_path / given)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_a_photograph_cut_off_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(NOISE[..., 0]).save(path)
    load_image(path)
    path.write_bytes(path.read_bytes()[: -NOISE.shape[1]])
    with pytest.raises(ValueError, match=rf"image\.{suffix}: cannot be read as an image"):
        load_image(path)


def test_a_tiff_keeps_the_size_of_its_pixels(tmp_path: Path) -> None:
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "image.tif", dpi=(254, 508))
    grid = Grid.from_image(load_image(tmp_path / "image.tif"))
    assert grid.spacing.tolist() == pytest.approx([0.1, 0.05])
    write_channels(read_channels(tmp_path / "image.tif").float(), torch.uint8, grid, tmp_path / "again.tif")
    assert read_grid(tmp_path / "again.tif")[0].spacing.tolist() == pytest.approx([0.1, 0.05], rel=1e-3)


def test_a_scan_has_no_channels(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(NOISE), str(tmp_path / "image.mha"))
    assert read_channels(tmp_path / "image.mha") is None


def test_color_in_three_dimensions(tmp_path: Path) -> None:
    color = np.zeros((5, 6, 7), [(channel, "u1") for channel in "RGB"])
    nib.save(nib.Nifti1Image(color, np.eye(4)), tmp_path / "image.nii.gz")
    vectors = sitk.GetImageFromArray(np.random.default_rng(0).random((5, 6, 7, 3)), isVector=True)
    for name in ("image.nrrd", "image.mha"):
        sitk.WriteImage(vectors, str(tmp_path / name))
    for name in ("image.nii.gz", "image.nrrd", "image.mha"):
        with pytest.raises(ValueError, match=rf"{name}: 3 values per voxel"):
            read_volume(tmp_path / name)
