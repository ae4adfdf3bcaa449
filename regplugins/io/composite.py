# SPDX-License-Identifier: Apache-2.0
"""Composite transforms in ITK's HDF5 files (``.h5``), LPS mm, and transforms that only ITK can read.

In ITK's list the last transform acts first: ``CompositeTransform([A, B])``, which maps ``p`` to ``A(B(p))``, is the
list A, B in both libraries.
"""

from __future__ import annotations

from typing import Any

import itk
import numpy as np
import torch

from regplugins.io.files import PathLike, atomic, existing
from regplugins.io.lps import flip_affine, flip_matrix, flip_points
from regplugins.spatial.grid import Grid
from regplugins.spatial.transforms import AffineTransform, CompositeTransform, DisplacementField, SpatialTransform


def read_with_itk(path: PathLike) -> SpatialTransform:
    """Read a linear transform, a displacement field or a composite of these (``.h5``, ``.mat``, ``.tfm``, ``.txt``)."""
    path = existing(path)
    try:
        found = list(itk.transformread(str(path)))
    except Exception as error:  # the bindings raise errors of any type
        raise ValueError(f"{path}: damaged, or not an ITK transform") from error
    if len(found) != 1:
        raise ValueError(f"{path}: expected one transform, found {len(found)}")
    try:
        return _from_itk(found[0])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_composite(transform: SpatialTransform, path: PathLike) -> None:
    """Write any transform as a composite; ``path`` ends in ``.h5``."""
    composite = itk.CompositeTransform[itk.D, transform.ndim].New()
    for part in CompositeTransform([transform]).transforms:
        composite.AddTransform(_to_itk(part))
    with atomic(path) as temporary:
        itk.transformwrite([composite], str(temporary), compression=False)  # half the size, 20 times the time


def _from_itk(transform: Any) -> SpatialTransform:
    transform = itk.down_cast(transform)
    n = transform.GetInputSpaceDimension()
    if isinstance(transform, itk.CompositeTransform[itk.D, n]):
        parts = [transform.GetNthTransform(k) for k in range(transform.GetNumberOfTransforms())]
        return CompositeTransform([_from_itk(part) for part in parts])
    if transform.IsLinear():
        # The images of the origin and the unit points give the matrix of any linear kind.
        origin, *units = (np.array(transform.TransformPoint(point)) for point in np.vstack([np.zeros(n), np.eye(n)]))
        matrix = np.eye(n + 1)
        matrix[:n, :n] = np.stack(units, axis=1) - origin[:, None]
        matrix[:n, n] = origin
        if not np.isfinite(matrix).all():
            raise ValueError("its parameters are NaN or infinite")
        return AffineTransform(flip_matrix(torch.from_numpy(matrix)))
    if isinstance(transform, itk.DisplacementFieldTransform[itk.D, n]):
        image = transform.GetDisplacementField()
        affine = np.eye(n + 1)
        affine[:n, :n] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
        affine[:n, n] = np.array(image.GetOrigin())
        vectors = flip_points(torch.from_numpy(itk.array_from_image(image).astype(np.float32)))
        vectors = vectors.permute(*reversed(range(n + 1))).contiguous()
        return DisplacementField(vectors, Grid(tuple(vectors.shape[1:]), flip_affine(torch.from_numpy(affine))))
    raise ValueError(f"a {transform.GetNameOfClass()} is not supported")


def _to_itk(transform: SpatialTransform) -> Any:
    n = transform.ndim
    if isinstance(transform, AffineTransform):
        matrix = flip_matrix(transform.matrix.detach().cpu()).numpy()
        affine = itk.AffineTransform[itk.D, n].New()
        affine.SetMatrix(itk.matrix_from_array(np.ascontiguousarray(matrix[:n, :n])))
        affine.SetOffset(matrix[:n, n].tolist())
        return affine
    if isinstance(transform, DisplacementField):
        image = itk.Image[itk.Vector[itk.D, n], n].New()
        image.SetRegions(list(transform.grid.shape))
        image.Allocate()
        vectors = transform.vectors.detach().cpu().permute(*reversed(range(n + 1)))
        itk.array_view_from_image(image)[...] = flip_points(vectors).numpy()
        lps = flip_affine(transform.grid.affine).numpy()
        spacing = transform.grid.spacing.numpy()
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(lps[:n, n].tolist())
        image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:n, :n] / spacing)))
        field = itk.DisplacementFieldTransform[itk.D, n].New()
        field.SetDisplacementField(image)
        return field
    raise TypeError(f"a {type(transform).__name__} has no equivalent in ITK")
