# SPDX-License-Identifier: Apache-2.0
"""Images, label maps and masks: read from any format, with their values checked, and written as NIfTI."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from regplugins.io.files import PathLike
from regplugins.io.nifti_writer import write_nifti
from regplugins.io.volumes import read_grid, read_volume
from regplugins.spatial import Grid

logger = logging.getLogger(__name__)

# A label map of more labels than this, in which fewer neighbors than this are alike, is taken for an image. Real maps
# of 24 to 138 structures have 0.86 and more, CT and MR 0.42 and less.
_MANY_LABELS = 64
_MIN_EQUAL_NEIGHBORS = 0.4
# Whole numbers from here on are rounded in single precision.
_EXACT = 2**24
# Labels above this do not fit in 16 bits, which other programs may store them in.
_MAX_COMMON_LABEL = 2**16 - 1
_ALIGNED = 2


def load_image(path: str | Path) -> MetaTensor:
    """Read a scan: NIfTI, NRRD, MHA, a gray PNG or TIFF, or a folder of DICOM slices (whatever ITK reads).

    Args:
        path: file or folder.

    Returns:
        ``(1, *spatial)`` float32 with its RAS+ affine, 2-D or 3-D. ``meta["warnings"]`` lists what is doubtful about
        the file; the same is logged.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, is neither 2-D nor 3-D, has color, or holds no varying, finite values. The
            message names the file.
    """
    array, grid, warnings = read_volume(path)
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    low, high = values.aminmax()
    if not torch.isfinite(low + high):  # NaN and infinities carry over to the extremes
        raise ValueError(f"{path}: {int((~torch.isfinite(values)).sum())} voxels are NaN or infinite")
    if low == high:
        raise ValueError(f"{path}: constant image, all voxels are {float(low):g}")
    _log(warnings)
    return MetaTensor(values[None], affine=grid.affine, meta={"warnings": warnings})


def load_label(path: str | Path) -> MetaTensor:
    """Read a label map.

    Args:
        path: file or folder.

    Returns:
        ``(1, *spatial)`` int32 with its RAS+ affine. ``meta["stored_dtype"]`` is the numpy type to write its like with:
        that of the file, or the smaller of int16 and int32 that holds labels kept as floating-point numbers.
        ``meta["warnings"]`` as of ``load_image``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, is neither 2-D nor 3-D, holds other than whole numbers from 0 on, or looks
            like an image. The message names the file.
    """
    label = _load_integers(path, "label map")
    if _is_like_an_image(label[0].numpy()):
        raise ValueError(
            f"{path}: looks like an image, not a label map: {len(label.unique())} different values, and neighboring "
            "voxels differ; give the label map"
        )
    return label


def load_mask(path: str | Path) -> MetaTensor:
    """Read a mask, which counts where it is not zero; a masked image may serve as its own mask.

    Args:
        path: file or folder.

    Returns:
        As ``load_label``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, is neither 2-D nor 3-D, holds other than whole numbers from 0 on, or is zero
            everywhere. The message names the file.
    """
    mask = _load_integers(path, "mask")
    if not mask.any():
        raise ValueError(f"{path}: the mask is empty (all voxels are 0)")
    return mask


def load_grid(path: str | Path) -> Grid:
    """Read where an image's voxels lie, whatever they hold; of NIfTI files the header alone is read.

    Args:
        path: file or folder.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or is neither 2-D nor 3-D. The message names the file.
    """
    grid, warnings = read_grid(path)
    _log(warnings)
    return grid


def write_image(values: Tensor, grid: Grid, path: PathLike, dtype: np.dtype | type = np.float32) -> None:
    """Write an image, world coordinates in both of NIfTI's forms.

    Args:
        values: ``(1, *grid.shape)``.
        grid: where its voxels lie.
        path: ends in ``.nii`` or ``.nii.gz``.
        dtype: of the numbers in the file.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(grid.shape)
    header.set_xyzt_units("mm")
    write_nifti([values[0].detach().cpu().numpy()], header, grid, path, world=_ALIGNED)


def _load_integers(path: str | Path, kind: str) -> MetaTensor:
    array, grid, warnings = read_volume(path)
    with np.errstate(invalid="ignore"):
        whole = np.ascontiguousarray(array.astype(np.int32))
    if not np.array_equal(whole, array):
        raise ValueError(f"{path}: a {kind} holds whole numbers, found fractions, NaN or numbers beyond 32 bits")
    low, high = int(whole.min()), int(whole.max())
    if low < 0:
        raise ValueError(
            f"{path}: a {kind} holds no negative numbers, found {low}; was it stored in 8 or 16 bits that were too few?"
        )
    stored = array.dtype
    if stored == np.float32 and high > _EXACT:
        warnings = [*warnings, f"{path}: labels up to {high} in single precision, which rounds those above {_EXACT}"]
    elif kind == "label map" and high > _MAX_COMMON_LABEL:
        warnings = [*warnings, f"{path}: labels up to {high}; Slicer and ANTs may not show those above 65535, renumber"]
    if stored.kind not in "iu":
        stored = np.dtype(np.int16 if high <= np.iinfo(np.int16).max else np.int32)
    _log(warnings)
    meta = {"stored_dtype": stored, "warnings": warnings}
    return MetaTensor(torch.from_numpy(whole)[None], affine=grid.affine, meta=meta)


def _is_like_an_image(labels: np.ndarray) -> bool:
    """Tell whether labels are many and neighbors along every axis mostly differ, background apart."""
    if labels.max() <= _MANY_LABELS:
        return False
    shares = []
    for axis in range(labels.ndim):
        planes = np.moveaxis(labels, axis, 0)
        ahead, behind = planes[1::4], planes[:-1:4]  # a quarter of all neighbors is enough
        both = (ahead != 0) & (behind != 0)
        if both.any():
            shares.append(np.count_nonzero(both & (ahead == behind)) / np.count_nonzero(both))
    return bool(shares and max(shares) < _MIN_EQUAL_NEIGHBORS and len(np.unique(labels)) > _MANY_LABELS)


def _log(warnings: Sequence[str]) -> None:
    for message in warnings:
        logger.warning("%s", message)
