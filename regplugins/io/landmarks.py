# SPDX-License-Identifier: Apache-2.0
"""Landmarks as CSV: a header ``x,y,z`` (``x,y`` in 2-D), optionally ``name``, then a line a point, in mm."""

from __future__ import annotations

import csv
from collections.abc import Sequence

import torch
from torch import Tensor

from regplugins.io.files import PathLike, atomic, existing
from regplugins.io.lps import flip_points
from regplugins.spatial import AffineTransform, Grid, SpatialTransform

_AXES = ["x", "y", "z"]


def read_landmarks(path: PathLike, space: str = "RAS") -> Tensor:
    """Read points.

    Args:
        path: CSV file; columns other than x, y and z are not looked at.
        space: "RAS" or "LPS", the world of the file's numbers.

    Returns:
        ``(points, n)`` float64 RAS+ mm.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unknown space, a missing column, no points, or something else than finite numbers.
    """
    _check(space)
    columns, rows = _read(path)
    points = []
    for number, row in enumerate(rows, start=2):
        try:
            points.append([float(row[column]) for column in columns])
        except (TypeError, ValueError):
            values = [row[column] for column in columns]
            raise ValueError(f"{path}: line {number}: expected numbers for {columns}, got {values}") from None
    landmarks = torch.tensor(points, dtype=torch.float64)
    finite = landmarks.isfinite().all(dim=1)
    if not finite.all():
        raise ValueError(f"{path}: coordinates must be finite, got {landmarks[~finite].tolist()}")
    return flip_points(landmarks) if space == "LPS" else landmarks


def read_landmark_names(path: PathLike) -> list[str] | None:
    """The points' names, or None where the file has no column ``name``."""
    _, rows = _read(path)
    return [row["name"] or "" for row in rows] if "name" in rows[0] else None


def write_landmarks(points: Tensor, path: PathLike, space: str = "RAS", names: Sequence[str] | None = None) -> None:
    """Write points so that ``read_landmarks`` reads the same numbers.

    Args:
        points: ``(points, n)`` RAS+ mm, 2-D or 3-D.
        path: CSV file.
        space: "RAS" or "LPS", the world of the file's numbers.
        names: one a point.

    Raises:
        ValueError: unknown space, or shapes or numbers that do not belong together.
    """
    _check(space)
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
    """Count landmarks that lie in a grid's field of view or less than a voxel beyond it, and describe the others.

    Args:
        points: ``(points, n)`` RAS+ mm.
        grid: where they are expected.
        names: of the landmarks' file, and of what has the grid.
        space: "RAS" or "LPS", the world of the file's numbers.
        inner: carries the points to the world of the grid; default: they are there.

    Returns:
        The number inside, and a sentence, empty if all are inside; it names the other space if that puts more and
        most of them inside, and voxel indices if most are outside in both.
    """
    inner = inner or AffineTransform.identity(grid.ndim)
    view = grid.resized(grid.spacing, [size + 2 for size in grid.shape])
    inside, flipped = (int(view.contains(inner(part)).sum()) for part in (points, flip_points(points)))
    count = len(points)
    if inside == count:
        return inside, ""
    message = f"{names[0]}: {count - inside} of {count} landmarks lie outside {names[1]}, read as {space} mm"
    if flipped > max(inside, count / 2):
        other = "LPS" if space == "RAS" else "RAS"
        message += f"; as {other} {flipped} would lie inside, try --landmark_space {other}"
    elif inside <= count / 2:
        message += "; expected points in the world of the image, not voxel indices"
    return inside, message


def _check(space: str) -> None:
    if space not in ("RAS", "LPS"):
        raise ValueError(f"landmark space must be 'RAS' or 'LPS', got {space!r}")


def _read(path: PathLike) -> tuple[list[str], list[dict[str, str]]]:
    """The coordinate columns there are, and the lines by column."""
    path = existing(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from error
    header = [name.strip() for name in reader.fieldnames or []]
    columns = [name for name in _AXES if name in header]
    if columns[:2] != ["x", "y"]:
        raise ValueError(f"{path}: expected a header with x, y, z, got {header}")
    if not rows:
        raise ValueError(f"{path}: no landmarks")
    return columns, [{(key or "").strip(): value for key, value in row.items()} for row in rows]
