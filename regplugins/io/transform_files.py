# SPDX-License-Identifier: Apache-2.0
"""Reading and writing of transform files of every format, by suffix, and of sequences of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from regplugins.io.affine import read_affine, write_affine
from regplugins.io.composite import read_with_itk, write_composite
from regplugins.io.displacement import read_displacement, write_displacement
from regplugins.io.files import PathLike, in_existing_folder
from regplugins.spatial import CompositeTransform, DisplacementField, Grid, SpatialTransform


class _Format(NamedTuple):
    read: Callable[[PathLike], SpatialTransform]
    write: Callable[[SpatialTransform, PathLike], None]
    holds_field: bool | None  # None: holds any transform


_FORMATS = {
    **dict.fromkeys((".mat", ".tfm", ".txt"), _Format(read_affine, write_affine, False)),
    ".h5": _Format(read_with_itk, write_composite, None),
    **dict.fromkeys((".nii", ".nii.gz"), _Format(read_displacement, write_displacement, True)),
}


def read_transform(path: PathLike) -> SpatialTransform:
    """Read an ITK transform (``.mat``, ``.tfm``, ``.txt``, ``.h5``) or displacement NIfTI (``.nii``, ``.nii.gz``)."""
    return _format(path).read(path)


def write_transform(transform: SpatialTransform, path: PathLike) -> None:
    """Write a transform in the format of the path's suffix; ``ValueError`` if it is unknown or cannot hold it.

    ``.mat``, ``.tfm`` and ``.txt`` hold an affine, ``.nii`` and ``.nii.gz`` a displacement field, ``.h5`` any kind.
    """
    _format(path).write(transform, path)


def may_hold_field(path: PathLike) -> bool | None:
    """Tell whether files with that suffix hold displacement fields; None if any transform, ``ValueError`` if none."""
    return _format(path).holds_field


def _format(path: PathLike) -> _Format:
    for suffix, form in _FORMATS.items():
        if Path(path).name.endswith(suffix):
            return form
    raise ValueError(f"{path}: a transform file ends in one of {', '.join(_FORMATS)}")


def read_chain(files: Sequence[Any]) -> SpatialTransform:
    """Read the composition of transform files in the order of antsApplyTransforms: the first is applied first.

    ``[file,1]``, as text or as a sequence, is a file's inverse. Raises ``ValueError`` if no file is given, or if their
    dimensions differ.
    """
    if not files:
        raise ValueError("give at least one transform file")
    steps = []
    for name, inverted in map(_parsed, files):
        transform = read_transform(name)
        steps.append(~transform if inverted else transform)
    dimensions = {step.ndim for step in steps}
    if len(dimensions) > 1:
        raise ValueError(f"transforms of one dimension expected, got {sorted(dimensions)} in {list(map(str, files))}")
    return reduce(lambda done, step: step @ done, steps)


def chain_files(files: Sequence[Any]) -> list[str]:
    """Paths of files named as for ``read_chain``."""
    return [name for name, _ in map(_parsed, files)]


def _parsed(file: Any) -> tuple[str, bool]:
    """Path of a file, and whether it is inverted."""
    name, inverted = file if isinstance(file, list | tuple) else (str(file), 0)
    if str(name).startswith("[") and str(name).endswith("]"):
        name, _, inverted = str(name)[1:-1].rpartition(",")
        name = name.strip()
    if str(inverted).strip() not in ("0", "1"):
        raise ValueError(f"{file}: expected a transform's file, or [file,1] for its inverse")
    return str(name), str(inverted).strip() == "1"


def check_output(path: PathLike, fields: Sequence[bool | None], has_grid: bool) -> None:
    """Refuse an output file that cannot hold a transform, before anything is read or computed.

    Args:
        path: as for ``write_transform``.
        fields: for each part in order of application, whether it is a displacement field; None if unknown.
        has_grid: whether a grid is given for a displacement field.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if the format cannot hold the transform, or the grid of the field is undetermined.
    """
    in_existing_folder(path)
    form = may_hold_field(path)
    if form is True and not has_grid and fields[:1] == [False]:
        raise ValueError(f"{path}: no displacement field is applied first, the grid is undetermined; give --reference")
    if form is not True and has_grid:
        raise ValueError(f"{path}: only a displacement field (.nii.gz) has the grid of a reference")
    if form is False and True in fields:
        raise ValueError(f"{path}: such a file holds an affine transform, got a displacement field; choose .h5")


def are_fields(transform: SpatialTransform) -> list[bool | None]:
    """For each part of a transform in order of application, whether it is a displacement field."""
    return [isinstance(part, DisplacementField) for part in reversed(CompositeTransform([transform]).transforms)]


def write_chain(transform: SpatialTransform, path: PathLike, grid: Grid | None = None) -> None:
    """Write any transform in the format of the path's suffix; errors as of ``check_output``.

    The grid is that of a displacement field (``.nii``, ``.nii.gz``), by default the grid of the field that is applied
    first.
    """
    check_output(path, are_fields(transform), grid is not None)
    *others, innermost = CompositeTransform([transform]).transforms
    if not others:
        transform = innermost
    if may_hold_field(path):
        if grid is None and isinstance(innermost, DisplacementField):
            grid = innermost.grid
        if grid is not None and not (isinstance(transform, DisplacementField) and transform.grid is grid):
            transform = transform.sample(grid)
    write_transform(transform, path)
