# SPDX-License-Identifier: Apache-2.0
"""Images and label maps from files, checked where they enter."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from monai.data import ITKReader, MetaTensor, NibabelReader

from regplugins.io.files import existing
from regplugins.spatial import Grid

# Cosine of the angle between two axes of an image: what rounding leaves in a header is below it.
_SKEW = 1e-3

NIFTI_SUFFIXES = (".nii", ".nii.gz")


def load_image(path: str | Path) -> MetaTensor:
    """Read a scan: NIfTI, NRRD, MHA, or a folder of DICOM slices (whatever MONAI's ITK reader takes).

    Args:
        path: file or folder.

    Returns:
        ``(1, *spatial)`` float32 with its RAS+ affine, 2-D or 3-D.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, is neither 2-D nor 3-D, or holds no varying, finite values. The message names the
            file.
    """
    array, affine = _read(path)
    values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    low, high = values.aminmax()
    if not torch.isfinite(low + high):  # NaN and infinities carry over to the extremes
        raise ValueError(f"{path}: {int((~torch.isfinite(values)).sum())} voxels are NaN or infinite")
    if low == high:
        raise ValueError(f"{path}: constant image, all voxels are {float(low):g}")
    return MetaTensor(values[None], affine=affine)


def load_label(path: str | Path) -> MetaTensor:
    """Read a label map.

    Args:
        path: file or folder.

    Returns:
        ``(1, *spatial)`` int32 with its RAS+ affine; ``meta["stored_dtype"]`` is the numpy type to write its like with:
        that of the file, or the smaller of int16 and int32 that holds labels kept as floating-point numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, is neither 2-D nor 3-D, or holds other than whole numbers. The message names the
            file.
    """
    array, affine = _read(path)
    with np.errstate(invalid="ignore"):
        whole = np.ascontiguousarray(array.astype(np.int32))
    if not np.array_equal(whole, array):
        raise ValueError(f"{path}: a label map holds whole numbers, found fractions, NaN or numbers beyond 32 bits")
    stored = array.dtype
    if stored.kind not in "iu":
        fits = np.abs(whole).max() <= np.iinfo(np.int16).max
        stored = np.dtype(np.int16 if fits else np.int32)
    return MetaTensor(torch.from_numpy(whole)[None], affine=affine, meta={"stored_dtype": stored})


def load_grid(path: str | Path) -> Grid:
    """Where an image's voxels lie, whatever they hold.

    Args:
        path: file or folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or is neither 2-D nor 3-D. The message names the file.
    """
    if not str(path).endswith(NIFTI_SUFFIXES):
        array, affine = _read(path)
        return _grid(array.shape, affine)
    try:
        header = NibabelReader().read(existing(path))  # not its voxels
        grid = _grid(_spatial(path, header.shape), torch.from_numpy(header.affine.astype(np.float64)))
    except FileNotFoundError:
        raise
    except Exception as error:  # nibabel raises whatever the damage leads to.
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error
    _check_axes(path, grid)
    return grid


def _grid(shape: tuple[int, ...], affine: torch.Tensor) -> Grid:
    return Grid.from_image(MetaTensor(torch.empty(1, *shape, device="meta"), affine=affine))


def _spatial(path: str | Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A 2-D or 3-D shape, without empty axes after the third."""
    if 0 in shape:
        raise ValueError(f"{path}: empty image of shape {shape}")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise ValueError(f"{path}: {len(shape)}-D, expected a 2-D or 3-D image of one channel, got shape {shape}")
    return shape


def _read(path: str | Path) -> tuple[np.ndarray, torch.Tensor]:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    reader = NibabelReader() if path.name.endswith(NIFTI_SUFFIXES) else ITKReader()
    try:
        with warnings.catch_warnings():
            # Of two scans in one folder MONAI would take one and warn.
            warnings.filterwarnings("error", ".*more than one DICOM series")
            array, meta = reader.get_data(reader.read(path))
    except Exception as error:
        # After its own reason ITK tells that of the operating system, which is often another's.
        lines = [line for line in str(error).strip().splitlines() if not line.startswith("Reason:")]
        reason = (lines or [type(error).__name__])[-1]
        raise ValueError(f"{path}: cannot be read as an image ({reason})") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: voxels are of type {array.dtype}, expected one real number each")
    array = array.reshape(_spatial(path, array.shape))
    affine = torch.as_tensor(np.asarray(meta["affine"]), dtype=torch.float64)
    try:
        grid = _grid(array.shape, affine)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _check_axes(path, grid)
    return array, affine


def _check_axes(path: str | Path, grid: Grid) -> None:
    """Refuse a sheared image: ITK's have axes at right angles, and what we write for one it would place elsewhere."""
    axes = grid.affine[: grid.ndim, : grid.ndim] / grid.spacing
    if (axes.T @ axes - torch.eye(grid.ndim, dtype=axes.dtype)).abs().max() > _SKEW:
        raise ValueError(f"{path}: its axes are not at right angles (a sheared image); resample it first")
