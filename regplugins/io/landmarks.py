# SPDX-License-Identifier: Apache-2.0
"""Landmark files, in mm: CSV with a header ``x,y,z`` (``x,y`` in 2-D) and optionally ``name``, and those of Slicer."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regplugins.checks import choice
from regplugins.io.files import PathLike, atomic, existing
from regplugins.io.itk_bridge import flip_points
from regplugins.io.markups import read_fiducials, read_markups
from regplugins.spatial import AffineTransform, Grid, SpatialTransform

_AXES = ["x", "y", "z"]


def read_landmarks(path: PathLike, space: str = "RAS") -> Tensor:
    """Read points, ``(points, n)`` float64 RAS+ mm.

    Args:
        path: a CSV file with columns x, y and z in either case, between commas, semicolons or tabs; or a file of
            Slicer, ``.mrk.json`` or ``.fcsv``.
        space: "RAS" or "LPS", the world of the file; one of Slicer says it itself.
    """
    choice("landmark space", space, dict.fromkeys(("RAS", "LPS")))
    columns, rows, own_space = _read(path)
    space = own_space or space
    points = []
    for number, row in enumerate(rows, start=1):
        try:
            points.append([float(row[column]) for column in columns])
        except (TypeError, ValueError):
            values = [row[column] for column in columns]
            raise ValueError(f"{path}: landmark {number}: expected numbers for {columns}, got {values}") from None
    landmarks = torch.tensor(points, dtype=torch.float64)
    finite = landmarks.isfinite().all(dim=1)
    if not finite.all():
        raise ValueError(f"{path}: coordinates must be finite, got {landmarks[~finite].tolist()}")
    return flip_points(landmarks) if space == "LPS" else landmarks


def read_landmark_names(path: PathLike) -> list[str] | None:
    """Names of the points, or None if the file has none."""
    _, rows, _ = _read(path)
    return [row["name"] or "" for row in rows] if "name" in rows[0] else None


def write_landmarks(points: Tensor, path: PathLike, space: str = "RAS", names: Sequence[str] | None = None) -> None:
    """Write points ``(points, n)``, RAS+ mm, 2-D or 3-D, so that ``read_landmarks`` reads the same numbers.

    ``space`` is "RAS" or "LPS", the world of the CSV file. Raises ``ValueError`` if the shapes of points and names do
    not match.
    """
    choice("landmark space", space, dict.fromkeys(("RAS", "LPS")))
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ValueError(f"expected points (points, 2) or (points, 3), got shape {tuple(points.shape)}")
    if names is not None and len(names) != len(points):
        raise ValueError(f"got {len(names)} names for {len(points)} points")
    coordinates = points.detach().cpu().to(torch.float64)
    rows = (flip_points(coordinates) if space == "LPS" else coordinates).tolist()
    header = _AXES[: points.shape[1]]
    if names is not None:
        header, rows = [*header, "name"], [[*row, name] for row, name in zip(rows, names, strict=True)]
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def landmarks_outside(
    points: Tensor, grid: Grid, names: tuple[PathLike, PathLike], space: str, inner: SpatialTransform | None = None
) -> tuple[int, str]:
    """Count the landmarks in a grid's field of view, extended by a voxel, and describe the others.

    Args:
        points: ``(points, n)`` RAS+ mm.
        grid: grid that should contain them.
        names: name of the landmarks' file, and of the image.
        space: "RAS" or "LPS", the world of the file.
        inner: maps the points to the world of the grid; default: identity.

    Returns:
        The number inside, and a message, empty if all are inside. It suggests the other space if that puts more and
        most of them inside, and voxel indices if these would.
    """
    inner = inner or AffineTransform.identity(grid.ndim)
    view = grid.resized(grid.spacing, [size + 2 for size in grid.shape])
    inside, flipped = (int(view.contains(inner(part)).sum()) for part in (points, flip_points(points)))
    count = len(points)
    if inside == count:
        return inside, ""
    message = f"{names[0]}: {count - inside} of {count} landmarks lie outside {names[1]}, read as "
    if _is_of_slicer(Path(names[0])):
        message += "in the world that the file names"
        if flipped > max(inside, count / 2):
            message += f"; with x and y negated {flipped} would lie inside"
        return inside, message
    message += f"{space} mm"
    if flipped > max(inside, count / 2):
        other = "LPS" if space == "RAS" else "RAS"
        message += f"; as {other} {flipped} would lie inside, try --landmark_space {other}"
    else:
        written = flip_points(points) if space == "LPS" else points
        indexed = int(view.contains(grid.index_to_world(written)).sum())
        if indexed > inside:
            message += f"; as voxel indices {indexed} would lie inside, but points are expected in mm"
    return inside, message


def _read(path: PathLike) -> tuple[list[str], list[dict[str, Any]], str | None]:
    """Coordinate columns, the rows by column, and the world if the file says it."""
    path = existing(path)
    space: str | None = None
    if _is_of_slicer(path):
        rows, space = (read_fiducials if path.suffix.lower() == ".fcsv" else read_markups)(path)
    else:
        rows = _read_table(path)
    if not rows:
        raise ValueError(f"{path}: no landmarks")
    return [name for name in _AXES if name in rows[0]], rows, space


def _is_of_slicer(path: Path) -> bool:
    return path.name.lower().endswith((".mrk.json", ".fcsv"))


def _read_table(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=header.count)
            reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True)
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from error
    names = [name.strip() for name in reader.fieldnames or []]
    lower = [name.lower() for name in names]
    if not {"x", "y"} <= set(lower) or any(lower.count(axis) > 1 for axis in _AXES):
        raise ValueError(f"{path}: expected a header with x, y, z, each once, got {names}")
    for number, row in enumerate(rows, start=1):
        if any(row.get(None, ())):  # a trailing delimiter is no value
            values = len(names) + len(row[None])
            raise ValueError(f"{path}: landmark {number}: {values} values below a header of {len(names)}")
    return [{key.strip().lower(): value for key, value in row.items() if key is not None} for row in rows]
