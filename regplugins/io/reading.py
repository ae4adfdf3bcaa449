# SPDX-License-Identifier: Apache-2.0
"""Checks shared by the readers of images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from regplugins.io.files import PathLike
from regplugins.spatial.grid import Grid

# Largest cosine of the angle between two axes, above the rounding errors of headers.
_MAX_COSINE = 1e-3


@contextmanager
def reading(path: PathLike) -> Iterator[None]:
    """Turn any error of a library about a damaged file into a ``ValueError`` that names the file."""
    try:
        yield
    except Exception as error:
        # ITK appends the last error of the operating system, which is often unrelated.
        lines = [line for line in str(error).strip().splitlines() if not line.startswith("Reason:")]
        reason = (lines or [type(error).__name__])[-1]
        raise ValueError(f"{path}: cannot be read as an image ({reason})") from error


def spatial_shape(path: PathLike, shape: tuple[int, ...]) -> tuple[int, ...]:
    """2-D or 3-D shape without single axes after the third; raises ``ValueError`` if the image has none."""
    if 0 in shape:
        raise ValueError(f"{path}: empty image of shape {shape}")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise ValueError(f"{path}: {len(shape)}-D, expected a 2-D or 3-D image of one channel, got shape {shape}")
    return shape


def check_single_channel(path: PathLike, channels: int) -> None:
    """Refuse color and vectors with a ``ValueError``."""
    if channels > 1:
        raise ValueError(f"{path}: {channels} values per voxel (color or vectors), expected one; convert color to gray")


def check_real_voxels(path: PathLike, dtype: np.dtype) -> None:
    """Refuse voxels that are not one real number each with a ``ValueError``."""
    check_single_channel(path, len(dtype.names or ()))
    if dtype.kind not in "biuf":
        raise ValueError(f"{path}: voxels are of type {dtype}, expected one real number each")


def orthogonal_grid(shape: tuple[int, ...], affine: torch.Tensor) -> Grid:
    """Grid of an image with orthogonal axes, as ITK requires.

    Raises ``ValueError`` if the affine is not finite, has no inverse or is sheared. The message is a predicate without
    a subject.
    """
    n = len(shape)
    if not affine.isfinite().all():
        raise ValueError("holds NaN or infinite numbers")
    try:
        grid = Grid(shape, affine)
    except ValueError:
        raise ValueError("has no inverse") from None
    axes = grid.affine[:n, :n] / grid.spacing
    if (axes.T @ axes - torch.eye(n, dtype=axes.dtype)).abs().max() > _MAX_COSINE:
        raise ValueError("is sheared (axes not at right angles)")
    return grid
