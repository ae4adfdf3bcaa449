# SPDX-License-Identifier: Apache-2.0
"""Images that are in memory, as objects of MONAI, nibabel, ITK, SimpleITK and NumPy."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from regplugins.io.files import PathLike
from regplugins.spatial import Grid
from regplugins.spatial.grid import in_plane

# Functions that give the array of an image, its axes in the reverse order.
_ARRAY_OF = {"itk": "array_from_image", "SimpleITK": "GetArrayFromImage"}
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_given(image: Any, path: PathLike) -> Path:
    """Write an image in memory to a file that ``load_image``, ``load_label`` and ``load_mask`` read.

    Args:
        image: of nibabel, ITK or SimpleITK; MONAI's ``MetaTensor`` ``(1, *spatial)``; or an array and its RAS+ affine,
            ``((*spatial), (n + 1, n + 1))``, 2-D or 3-D.
        path: without a suffix; its name stands for the image in messages.

    Returns:
        The path of the file.

    Raises:
        TypeError: if it is none of these.
        ValueError: if an array does not fit its affine, or cannot be stored.
    """
    path = Path(path)
    array, affine = _array_and_affine(image, path.name)
    file = path.with_name(f"{path.name}.nii")
    array = _storable(array, path.name)
    if isinstance(image, nib.Nifti1Pair):  # with its header, which may have units or forms that differ
        kind = nib.Nifti2Image if isinstance(image, nib.Nifti2Pair) else nib.Nifti1Image
        stored = kind(array, affine, image.header)
        stored.set_data_dtype(array.dtype)
    else:
        stored = nib.Nifti1Image(array, affine)
        stored.header.set_xyzt_units("mm")
    nib.save(stored, file)
    return file


def _array_and_affine(image: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Array ``(*spatial)`` and RAS+ affine ``(4, 4)``."""
    library = type(image).__module__.partition(".")[0]
    if isinstance(image, nib.spatialimages.SpatialImage):
        if image.affine is None:
            raise ValueError(f"{name}: the image of nibabel has no affine, its place is unknown")
        array, affine = np.asanyarray(image.dataobj), image.affine
        while array.ndim > 3 and array.shape[-1] == 1:
            array = array[..., 0]
    elif library in _ARRAY_OF:
        array, affine = _of_itk(image, library)
    elif isinstance(image, tuple | list) and len(image) == 2:
        array, affine = map(_as_array, image)
    elif isinstance(image, MetaTensor) and len(image) == 1:
        array, affine = _as_array(image[0].as_tensor()), _as_array(image.affine)
        if image.meta.get("space") == "LPS":
            axes = [*range(len(affine) - 1), 3]
            affine = _FLIP[np.ix_(axes, axes)] @ affine
    else:
        shape = getattr(image, "shape", None)
        found = type(image).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
        raise TypeError(
            f"{name}: expected a path, an image of nibabel, ITK or SimpleITK, a MetaTensor (1, *spatial), or an array "
            f"and its affine, got a {found}"
        )
    n = array.ndim
    if n not in (2, 3) or affine.shape not in ((n + 1, n + 1), (4, 4)):
        raise ValueError(
            f"{name}: expected an array (*spatial), 2-D or 3-D, and a square affine with one row more than the array "
            f"has axes, got shapes {array.shape} and {affine.shape}"
        )
    if array.size == 0:
        raise ValueError(f"{name}: empty image of shape {array.shape}")
    if isinstance(image, nib.Nifti1Pair):  # its two forms are judged as those of a file
        return array, affine
    try:
        placed = in_plane(torch.as_tensor(affine, dtype=torch.float64), n)
    except ValueError as error:
        raise ValueError(f"{name}: its affine {error}; give it one of its pixel size") from error
    try:
        grid = Grid(array.shape, placed)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if n == 3:
        return array, affine
    world = np.eye(4)
    world[np.ix_([*range(n), 3], [*range(n), 3])] = grid.affine
    return array, world


def _of_itk(image: Any, library: str) -> tuple[np.ndarray, np.ndarray]:
    array = getattr(importlib.import_module(library), _ARRAY_OF[library])(image).T
    n = image.GetDimension() if library == "SimpleITK" else image.GetImageDimension()
    affine = np.eye(n + 1)
    affine[:n, :n] = np.reshape(np.asarray(image.GetDirection()), (n, n)) * np.array(list(image.GetSpacing()))
    affine[:n, n] = list(image.GetOrigin())
    axes = [*range(n), 3]
    return array, _FLIP[np.ix_(axes, axes)] @ affine if n in (2, 3) else affine


def _as_array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    return np.asarray(values)


def _storable(array: np.ndarray, name: str) -> np.ndarray:
    """Array in a type of NIfTI that all programs read; its values are kept, of real numbers in single precision."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: voxels are of type {array.dtype}, expected one real number each")
    if array.dtype.kind == "f":
        return array if array.dtype == np.float64 else array.astype(np.float32)
    low, high = int(array.min()), int(array.max())
    for kind in (np.uint8, np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind)
    raise ValueError(f"{name}: whole numbers from {low} to {high} do not fit in 32 bits")
