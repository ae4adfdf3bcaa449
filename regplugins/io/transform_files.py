# SPDX-License-Identifier: Apache-2.0
"""One way in and one way out for transform files of every format, chosen by the name's ending."""

from __future__ import annotations

from pathlib import Path

from regplugins.io.affine import read_affine, write_affine
from regplugins.io.composite import read_with_itk, write_composite
from regplugins.io.displacement import read_displacement, write_displacement
from regplugins.io.files import PathLike
from regplugins.spatial.transforms import DisplacementField, SpatialTransform

_AFFINE = (".mat", ".tfm", ".txt")
_COMPOSITE = (".h5",)
_FIELD = (".nii", ".nii.gz")


def read_transform(path: PathLike) -> SpatialTransform:
    """Read a transform of any supported format.

    Args:
        path: ITK transform (``.mat``, ``.tfm``, ``.txt``, ``.h5``) or displacement NIfTI (``.nii``, ``.nii.gz``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unknown ending, or a file that does not hold such a transform.
    """
    if is_field_file(path):
        return read_displacement(path)
    if _ends(path, _AFFINE):
        return read_affine(path)
    if _ends(path, _COMPOSITE):
        return read_with_itk(path)
    raise _unknown(path)


def write_transform(transform: SpatialTransform, path: PathLike) -> None:
    """Write a transform in the format that the path's ending says.

    Args:
        transform: affine for ``.mat``, ``.tfm`` and ``.txt``, a displacement field for ``.nii`` and ``.nii.gz``, any
            for ``.h5``.
        path: file to write.

    Raises:
        ValueError: unknown ending, or a transform that the format cannot hold.
    """
    if is_field_file(path):
        if not isinstance(transform, DisplacementField):
            raise ValueError(f"{path}: such a file holds a displacement field, got {type(transform).__name__}")
        write_displacement(transform, path)
    elif _ends(path, _AFFINE):
        write_affine(transform, path)
    elif _ends(path, _COMPOSITE):
        write_composite(transform, path)
    else:
        raise _unknown(path)


def is_field_file(path: PathLike) -> bool:
    """Whether a file of that name holds a displacement field."""
    return _ends(path, _FIELD)


def may_hold_field(path: PathLike) -> bool | None:
    """Tell whether a transform file of that name holds a field; None if the name does not say.

    Raises:
        ValueError: if no transform file has such a name.
    """
    if is_field_file(path):
        return True
    if _ends(path, _AFFINE):
        return False
    if _ends(path, _COMPOSITE):
        return None
    raise _unknown(path)


def _ends(path: PathLike, suffixes: tuple[str, ...]) -> bool:
    return Path(path).name.endswith(suffixes)


def _unknown(path: PathLike) -> ValueError:
    return ValueError(f"{path}: a transform file ends in one of {', '.join(_AFFINE + _COMPOSITE + _FIELD)}")
