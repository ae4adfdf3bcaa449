# SPDX-License-Identifier: Apache-2.0
"""Reading of images of every format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np
import PIL.Image
import torch

from regplugins.io.dicom import is_dicom, read_dicom
from regplugins.io.files import PathLike
from regplugins.io.nifti import NIFTI_SUFFIXES, read_nifti, read_nifti_grid
from regplugins.io.reading import check_real_voxels, check_single_channel, orthogonal_grid, reading, spatial_shape
from regplugins.spatial.grid import Grid

# Keys of a MetaImage header that place its voxels.
_PLACE = ("Offset", "Position", "Origin", "ElementSpacing", "TransformMatrix", "Rotation", "Orientation")


def read_volume(path: PathLike) -> tuple[np.ndarray, Grid, list[str]]:
    """Read an image: NIfTI, any format of ITK (NRRD, MHA, PNG, ...), or a folder with one DICOM series.

    Returns:
        Array ``(*spatial)``, 2-D or 3-D, its grid, and warnings, which name the file.

    Raises:
        ValueError: if voxels are not one real number each, or their position is undetermined.
    """
    path = _existing(path)
    if path.name.endswith(NIFTI_SUFFIXES):
        return read_nifti(path)
    image, warnings = read_dicom(path) if path.is_dir() or is_dicom(path) else (_read_with_itk(path), [])
    check_single_channel(path, image.GetNumberOfComponentsPerPixel())
    from monai.data import ITKReader  # takes seconds, which NIfTI files need not wait for

    array, meta = ITKReader().get_data(image)
    check_real_voxels(path, array.dtype)
    shape = spatial_shape(path, array.shape)
    try:
        grid = orthogonal_grid(shape, torch.as_tensor(meta["affine"], dtype=torch.float64))
    except ValueError as error:
        raise ValueError(f"{path}: its affine {error}; resample it first") from error
    return array.reshape(shape), grid, warnings


def read_grid(path: PathLike) -> tuple[Grid, list[str]]:
    """Grid of an image and warnings, as ``read_volume``; of NIfTI files only the header is read."""
    path = _existing(path)
    if path.name.endswith(NIFTI_SUFFIXES):
        return read_nifti_grid(path)
    _, grid, warnings = read_volume(path)
    return grid, warnings


def _read_with_itk(path: Path) -> Any:
    if path.suffix.lower() in (".mha", ".mhd"):
        _check_meta_header(path)
    with reading(path):
        header = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        if header is not None:
            header.SetFileName(str(path))
            header.ReadImageInformation()
    if path.suffix.lower() == ".bmp" and _is_gray(path):
        return itk.imread(str(path), itk.UC)  # ITK takes its palette of grays for color
    if header is not None:  # ITK's Python reads gray with opacity as a single channel
        check_single_channel(path, header.GetNumberOfComponents())
    with reading(path):
        return itk.imread(str(path))


def _is_gray(path: Path) -> bool:
    with reading(path), PIL.Image.open(path) as image:
        return image.mode == "L"


def _check_meta_header(path: Path) -> None:
    """Refuse a header of MetaImage whose place is not all finite numbers: ITK would put zeros in their stead."""
    with path.open("rb") as file:
        for line in file:
            key, _, value = line.decode("latin-1").partition("=")
            if key.strip() in _PLACE and not _are_finite(value.split()):
                raise ValueError(f"{path}: its {key.strip()} is {value.strip()!r}, expected finite numbers")
            if key.strip() == "ElementDataFile":  # the last line of a header
                return


def _are_finite(words: Sequence[str]) -> bool:
    try:
        return all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False


def _existing(path: PathLike) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    return path
