# SPDX-License-Identifier: Apache-2.0
"""Reading and writing of transform files of every format, by suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from regplugins.io.affine import read_affine, write_affine
from regplugins.io.composite import read_with_itk, write_composite
from regplugins.io.displacement import read_displacement, write_displacement
from regplugins.io.files import PathLike
from regplugins.spatial.transforms import SpatialTransform


class _Format(NamedTuple):
    read: Callable[[PathLike], SpatialTransform]
    write: Callable[[SpatialTransform, PathLike], None]
    holds_field: bool | None  # None: holds any transform


_AFFINE = _Format(read_affine, write_affine, False)
_FIELD = _Format(read_displacement, write_displacement, True)
_FORMATS = {
    **dict.fromkeys((".mat", ".tfm", ".txt"), _AFFINE),
    ".h5": _Format(read_with_itk, write_composite, None),
    **dict.fromkeys((".nii", ".nii.gz"), _FIELD),
}


def read_transform(path: PathLike) -> SpatialTransform:
    """Read an ITK transform (``.mat``, ``.tfm``, ``.txt``, ``.h5``) or displacement NIfTI (``.nii``, ``.nii.gz``)."""
    return _format(path).read(path)


def write_transform(transform: SpatialTransform, path: PathLike) -> None:
    """Write a transform in the format of the path's suffix.

    ``.mat``, ``.tfm`` and ``.txt`` hold an affine, ``.nii`` and ``.nii.gz`` a displacement field, ``.h5`` any kind.

    Raises:
        ValueError: if the suffix is unknown, or the format cannot hold the transform.
    """
    _format(path).write(transform, path)


def may_hold_field(path: PathLike) -> bool | None:
    """Tell whether files with that suffix hold displacement fields; None if they hold any transform.

    Raises:
        ValueError: if transform files do not have that suffix.
    """
    return _format(path).holds_field


def _format(path: PathLike) -> _Format:
    for suffix, form in _FORMATS.items():
        if Path(path).name.endswith(suffix):
            return form
    raise ValueError(f"{path}: a transform file ends in one of {', '.join(_FORMATS)}")
