# SPDX-License-Identifier: Apache-2.0
"""Images that are in memory, as objects of MONAI, nibabel, ITK, SimpleITK and NumPy."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
from monai.data import MetaTensor

from regplugins.io.files import PathLike


def write_given(image: Any, path: PathLike) -> Path:
    """Write an image in memory to a file that ``load_image``, ``load_label`` and ``load_mask`` read.

    Args:
        image: of nibabel, ITK or SimpleITK; MONAI's ``MetaTensor`` ``(1, *spatial)``; or an array and its RAS+ affine,
            ``((*spatial), (n + 1, n + 1))``, 2-D or 3-D.
        path: without a suffix, which depends on the kind of image.

    Returns:
        The path of the file.

    Raises:
        TypeError: if it is none of these.
        ValueError: if an array does not fit its affine, or cannot be stored.
    """
    path = Path(path)
    library = type(image).__module__.partition(".")[0]
    if library in ("itk", "SimpleITK"):
        file = path.with_name(f"{path.name}.nrrd")
        write = itk.imwrite if library == "itk" else importlib.import_module(library).WriteImage
        write(image, str(file))
        return file
    if not isinstance(image, nib.spatialimages.SpatialImage):
        image = _nifti(*_array_and_affine(image, path.name))
    file = path.with_name(f"{path.name}.nii")
    nib.save(image, file)
    return file


def _nifti(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    n = array.ndim
    world = np.eye(4)
    world[np.ix_([*range(n), 3], [*range(n), 3])] = affine
    if array.dtype.kind in "bui":  # NIfTI has no booleans, and few programs read 64 bits
        array = array.astype(np.min_scalar_type(int(array.max())) if array.min() >= 0 else np.int32)
    elif array.dtype != np.float64:
        array = array.astype(np.float32)
    image = nib.Nifti1Image(array, world)
    image.header.set_xyzt_units("mm")
    return image


def _array_and_affine(image: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Array ``(*spatial)`` and affine."""
    if isinstance(image, tuple | list) and len(image) == 2:
        array, affine = map(np.asarray, image)
    elif isinstance(image, MetaTensor) and len(image) == 1:
        array, affine = image[0].detach().cpu().numpy(), np.asarray(image.affine)
        axes = [*range(array.ndim), -1]
        affine = affine[np.ix_(axes, axes)]
    else:
        raise TypeError(
            f"{name}: expected a path, an image of nibabel, ITK or SimpleITK, a MetaTensor (1, *spatial), or an array "
            f"and its affine, got {_described(image)}"
        )
    if array.ndim not in (2, 3) or affine.shape != (array.ndim + 1,) * 2:
        raise ValueError(
            f"{name}: expected an array (*spatial), 2-D or 3-D, and a square affine with one row more than the array "
            f"has axes, got shapes {array.shape} and {affine.shape}"
        )
    return array, affine


def _described(image: Any) -> str:
    shape = getattr(image, "shape", None)
    return f"a {type(image).__name__}" + ("" if shape is None else f" of shape {tuple(shape)}")
