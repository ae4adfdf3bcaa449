# SPDX-License-Identifier: Apache-2.0
"""Images, label maps and masks: read from any format with checked values, written as NIfTI."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import itk
import nibabel as nib
import numpy as np
import PIL.Image
import torch
from torch import Tensor

from regplugins.io.dicom import is_dicom, read_dicom
from regplugins.io.files import PathLike
from regplugins.io.nifti import is_nifti, read_nifti, read_nifti_grid
from regplugins.io.nifti_writer import write_nifti
from regplugins.io.photographs import has_color, has_pixel_size, is_photograph, luminance
from regplugins.io.reading import check_real_voxels, check_single_channel, orthogonal_grid, reading, spatial_shape
from regplugins.spatial import Grid

if TYPE_CHECKING:
    from monai.data import MetaTensor

logger = logging.getLogger(__name__)

# A label map is taken for an image if it has more labels and a smaller share of equal neighbors than these. Maps of 24
# to 138 structures have a share of at least 0.86, CT and MR of at most 0.42.
_MANY_LABELS = 64
_MIN_EQUAL_NEIGHBORS = 0.4
# Largest number up to which single precision represents all integers.
_MAX_EXACT = 2**24
# Labels above this do not fit in 16 bits, which other programs may store them in.
_MAX_COMMON_LABEL = 2**16 - 1
_ALIGNED = 2
_GIPL_HEADER = 256  # bytes
# Keys of a MetaImage header that place its voxels.
_PLACE = ("Offset", "Position", "Origin", "ElementSpacing", "TransformMatrix", "Rotation", "Orientation")


class StoredImage(NamedTuple):
    """Voxels of a file and their place; unlike MONAI's ``MetaTensor`` it needs no import of MONAI.

    Attributes:
        values: ``(1, *spatial)``, float32 of an image, int32 of a label map.
        grid: where the voxels lie.
        stored_dtype: numpy type of the file, or of the file to write.
        warnings: what is doubtful about the file.
        photograph: whether the image is one, by its file's suffix.
    """

    values: Tensor
    grid: Grid
    stored_dtype: np.dtype
    warnings: list[str]
    photograph: bool = False

    def as_meta_tensor(self) -> MetaTensor:
        """Values with the RAS+ affine, and in ``meta`` the stored type, the warnings, and if it is a photograph."""
        from monai.data import MetaTensor  # takes seconds, for which commands on files need not wait

        meta = {"stored_dtype": self.stored_dtype, "warnings": self.warnings, "photograph": self.photograph}
        return MetaTensor(self.values, affine=self.grid.affine, meta=meta)


def load_image(path: str | Path) -> MetaTensor:
    """Read a scan: NIfTI, NRRD, MHA, a photograph, or a folder of DICOM slices (all that ITK reads).

    Of a photograph in color (PNG, JPEG, TIFF) it reads the luminance.

    Returns:
        ``(1, *spatial)`` float32 with its RAS+ affine, 2-D or 3-D. ``meta["warnings"]`` lists doubts about the file,
        which are also logged; ``meta["photograph"]`` tells whether it is a photograph.

    Raises:
        ValueError: if a voxel has several values, or the image is constant or has infinite values. NaN, the background
            of SPM, becomes 0, or the minimum of the image if that is below 0.
    """
    return read_image(path).as_meta_tensor()


def read_image(path: str | Path) -> StoredImage:
    """Read a scan as ``load_image`` does, without MONAI."""
    array, grid, warnings = read_volume(path, color=True)
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    low, high = values.aminmax()
    if low.isnan():  # NaN propagates to the extremes
        values, warning = _fill_nan(values, path)
        warnings = [*warnings, warning]
        low, high = values.aminmax()
    if not (low.isfinite() and high.isfinite()):
        raise ValueError(f"{path}: {int((~torch.isfinite(values)).sum())} voxels are infinite")
    if low == high:
        raise ValueError(f"{path}: constant image, all voxels are {float(low):g}")
    _log(warnings)
    return StoredImage(values[None], grid, array.dtype, warnings, grid.ndim == 2 and is_photograph(path))


def load_label(path: str | Path) -> MetaTensor:
    """Read a label map.

    Returns:
        ``(1, *spatial)`` int32 with its RAS+ affine and ``meta["warnings"]``. ``meta["stored_dtype"]`` is the numpy
        type for output: the file's, or for floating-point labels the smaller of int16 and int32 that holds them.

    Raises:
        ValueError: if it holds other than whole numbers from 0 on, or looks like an image.
    """
    return read_label(path).as_meta_tensor()


def read_label(path: str | Path) -> StoredImage:
    """Read a label map as ``load_label`` does, without MONAI."""
    label = _read_integers(path, "label map")
    if _is_like_an_image(label.values[0].numpy()):
        raise ValueError(
            f"{path}: looks like an image, not a label map: {len(label.values.unique())} different values, and "
            "neighboring voxels differ; give the label map"
        )
    return label


def load_mask(path: str | Path) -> MetaTensor:
    """Read a mask, as ``load_label``; any value but 0 is inside, so that a masked image may be its own mask.

    Raises:
        ValueError: if it holds other than whole numbers from 0 on, or is zero everywhere.
    """
    mask = _read_integers(path, "mask")
    if not mask.values.any():
        raise ValueError(f"{path}: the mask is empty (all voxels are 0)")
    return mask.as_meta_tensor()


def load_grid(path: str | Path) -> Grid:
    """Read the grid of an image; of NIfTI files only the header is read."""
    grid, warnings = read_grid(path)
    _log(warnings)
    return grid


def write_image(values: Tensor, grid: Grid, path: PathLike, dtype: np.dtype | type = np.float32) -> None:
    """Write an image with its world coordinates as sform and qform.

    Args:
        values: ``(1, *grid.shape)``.
        grid: grid of the voxels.
        path: ends in ``.nii`` or ``.nii.gz``.
        dtype: number type in the file.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(grid.shape)
    header.set_xyzt_units("mm")
    write_nifti([values[0].detach().cpu().numpy()], header, grid, path, world=_ALIGNED)


def _fill_nan(values: Tensor, path: str | Path) -> tuple[Tensor, str]:
    """Values whose NaN are background, and a warning."""
    unknown = values.isnan()
    if unknown.all():
        raise ValueError(f"{path}: all voxels are NaN")
    background = min(float(values[~unknown].min()), 0.0)
    warning = f"{path}: {int(unknown.sum())} voxels are NaN, taken for background ({background:g})"
    return torch.where(unknown, background, values), warning


def _read_integers(path: str | Path, kind: str) -> StoredImage:
    array, grid, warnings = read_volume(path)
    with np.errstate(invalid="ignore"):
        whole = np.ascontiguousarray(array.astype(np.int32))
    if not np.array_equal(whole, array):
        raise ValueError(f"{path}: a {kind} holds whole numbers, found fractions, NaN or numbers beyond 32 bits")
    low, high = int(whole.min()), int(whole.max())
    if low < 0:
        raise ValueError(
            f"{path}: a {kind} holds no negative numbers, found {low}; if labels overflowed, store them in more bits"
        )
    stored = array.dtype
    if stored == np.float32 and high > _MAX_EXACT:
        rounded = f"{path}: labels up to {high} in single precision, which rounds those above {_MAX_EXACT}"
        warnings = [*warnings, rounded]
    elif kind == "label map" and high > _MAX_COMMON_LABEL:
        warnings = [*warnings, f"{path}: labels up to {high}; Slicer and ANTs may not show those above 65535, renumber"]
    if stored.kind not in "iu":
        stored = np.dtype(np.int16 if high <= np.iinfo(np.int16).max else np.int32)
    _log(warnings)
    return StoredImage(torch.from_numpy(whole)[None], grid, stored, warnings)


def _is_like_an_image(labels: np.ndarray) -> bool:
    """Tell whether labels are many and most neighbors along every axis differ, background apart."""
    if labels.max() <= _MANY_LABELS:
        return False
    shares = []
    for axis in range(labels.ndim):
        planes = np.moveaxis(labels, axis, 0)
        ahead, behind = planes[1::4], planes[:-1:4]  # a quarter of all neighbors suffices
        both = (ahead != 0) & (behind != 0)
        if both.any():
            shares.append(np.count_nonzero(both & (ahead == behind)) / np.count_nonzero(both))
    return bool(shares and max(shares) < _MIN_EQUAL_NEIGHBORS and len(np.unique(labels)) > _MANY_LABELS)


def _log(warnings: Sequence[str]) -> None:
    for message in warnings:
        logger.warning("%s", message)


def read_volume(path: PathLike, color: bool = False) -> tuple[np.ndarray, Grid, list[str]]:
    """Read an image: NIfTI, any format of ITK (NRRD, MHA, PNG, ...), or a folder with one DICOM series.

    Args:
        path: of the image.
        color: read the luminance of a photograph in color, which is refused otherwise.

    Returns:
        Array ``(*spatial)``, 2-D or 3-D, its grid, and warnings, which name the file.

    Raises:
        ValueError: if voxels are not one real number each, or their position is undetermined.
    """
    path = _existing(path)
    if is_nifti(path):
        return read_nifti(path)
    image, warnings = read_dicom(path) if path.is_dir() or is_dicom(path) else (_read_with_itk(path), [])
    if color and has_color(path, image.GetNumberOfComponentsPerPixel()) and image.GetImageDimension() == 2:
        image = luminance(image)
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
    if is_nifti(path):
        return read_nifti_grid(path)
    _, grid, warnings = read_volume(path, color=True)
    return grid, warnings


def _read_with_itk(path: Path) -> Any:
    if path.suffix.lower() in (".mha", ".mhd"):
        _check_meta_header(path)
    with reading(path):
        header = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        if header is not None:
            header.SetFileName(str(path))
            header.ReadImageInformation()
    if header is not None:
        _check_not_cut_off(path, header)
    if path.suffix.lower() in (".bmp", ".jpg", ".jpeg"):
        with reading(path), PIL.Image.open(path) as picture:
            picture.load()  # raises an error if the file is cut off, ITK does not
            if picture.format == "BMP" and picture.mode == "L":
                return itk.imread(str(path), itk.UC)  # ITK takes its palette of grays for color
    if header is not None:  # ITK's Python reads gray with opacity as a single channel
        channels, kind = header.GetNumberOfComponents(), header.GetComponentType()
        if not has_color(path, channels):
            check_single_channel(path, channels)
        elif kind != itk.CommonEnums.IOComponent_UCHAR:
            raise ValueError(f"{path}: color of more than 8 bits a channel; convert it to 8 bits")
        rare = ("CHAR", "LONG", "LONGLONG", "ULONG", "ULONGLONG")
        if kind in [getattr(itk.CommonEnums, f"IOComponent_{name}") for name in rare]:
            with reading(path):  # ITK's Python has no images of this type
                return itk.imread(str(path), itk.D)
    with reading(path):
        image = itk.imread(str(path))
    if is_photograph(path) and not has_pixel_size(path):
        image.SetSpacing([1.0] * image.GetImageDimension())
    return image


def _check_not_cut_off(path: Path, header: Any) -> None:
    """Refuse files of formats in which ITK would replace the voxels that are missing by zeros."""
    suffix, size = path.suffix.lower(), header.GetImageSizeInBytes()
    if suffix in (".hdr", ".img"):
        path = path.with_suffix(".IMG" if path.suffix.isupper() else ".img")
    elif suffix == ".gipl":
        size += _GIPL_HEADER
    elif suffix != ".vtk" or header.GetFileType() != itk.CommonEnums.IOFile_Binary:
        return
    if path.is_file() and path.stat().st_size < size:
        raise ValueError(f"{path}: cut off, its header says {size} bytes")


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
    """Check the path of a file or a folder."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    return path
