# SPDX-License-Identifier: Apache-2.0
"""Composite transforms in ITK's HDF5 files (``.h5``), LPS mm, and transforms that only ITK can read.

In ITK's list the last transform acts first: ``CompositeTransform([A, B])``, which maps ``p`` to ``A(B(p))``, is the
list A, B in both libraries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from regplugins.io.files import PathLike, atomic, existing
from regplugins.io.itk_bridge import affine_parameters, flip_affine, flip_matrix, flip_points, itk_class, place_image
from regplugins.spatial.grid import Grid
from regplugins.spatial.transforms import AffineTransform, CompositeTransform, DisplacementField, SpatialTransform

# ITK's readers by the ending of a file, that of text apart.
_KINDS = {".h5": "HDF5", ".mat": "Matlab"}


def read_with_itk(path: PathLike) -> SpatialTransform:
    """Read a linear transform, a displacement field or a composite of these (``.h5``, ``.mat``, ``.tfm``, ``.txt``)."""
    path = existing(path)
    try:
        reader = itk_class("TransformFileReaderTemplate", "D", "TransformFileReader").New()
        kind = _KINDS.get(path.suffix, "Txt")
        reader.SetTransformIO(itk_class(f"{kind}TransformIOTemplate", "D", f"{kind}TransformIO").New())
        reader.SetFileName(str(path))
        reader.Update()
        found = reader.GetModifiableTransformList()
    except Exception as error:  # The bindings raise whatever the C++ exception resembles.
        raise ValueError(f"{path}: damaged, or not an ITK transform") from error
    if found.size() != 1:
        raise ValueError(f"{path}: expected one transform, found {found.size()}")
    try:
        return _from_itk(found.pop())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_composite(transform: SpatialTransform, path: PathLike) -> None:
    """Write any transform as a composite; ``path`` ends in ``.h5``."""
    composite = itk_class("CompositeTransform", f"D{transform.ndim}").New()
    for part in CompositeTransform([transform]).transforms:
        composite.AddTransform(_to_itk(part))
    writer = itk_class("TransformFileWriterTemplate", "D", "TransformFileWriter").New()
    writer.SetTransformIO(itk_class("HDF5TransformIOTemplate", "D", "HDF5TransformIO").New())
    writer.SetUseCompression(False)  # half the size, 20 times the time
    writer.AddTransform(composite)
    with atomic(path) as temporary:
        writer.SetFileName(str(temporary))
        writer.Update()


def _from_itk(transform: Any) -> SpatialTransform:
    n, kind = transform.GetInputSpaceDimension(), transform.GetNameOfClass()
    if kind == "CompositeTransform":
        transform = itk_class(kind, f"D{n}").cast(transform)
        parts = [transform.GetNthTransform(k) for k in range(transform.GetNumberOfTransforms())]
        return CompositeTransform([_from_itk(part) for part in parts])
    transform = itk_class("Transform", f"D{n}{n}", "TransformBase").cast(transform)
    if transform.IsLinear():
        # The images of the origin and the unit points give the matrix of any linear kind.
        origin, *units = (np.array(transform.TransformPoint(point)) for point in np.vstack([np.zeros(n), np.eye(n)]))
        matrix = np.eye(n + 1)
        matrix[:n, :n] = np.stack(units, axis=1) - origin[:, None]
        matrix[:n, n] = origin
        if not np.isfinite(matrix).all():
            raise ValueError("its parameters are NaN or infinite")
        return AffineTransform(flip_matrix(torch.from_numpy(matrix)))
    if kind == "DisplacementFieldTransform":
        image = itk_class(kind, f"D{n}").cast(transform).GetDisplacementField()
        affine = np.eye(n + 1)
        direction = image.GetDirection().GetVnlMatrix()
        directions = [[direction.get(row, column) for column in range(n)] for row in range(n)]
        affine[:n, :n] = np.array(directions) * np.array(image.GetSpacing())
        affine[:n, n] = np.array(image.GetOrigin())
        vectors = itk_class("PyBuffer", f"IVD{n}{n}").GetArrayViewFromImage(image)
        vectors = flip_points(torch.from_numpy(np.array(vectors, np.float32)))
        if not vectors.isfinite().all():
            raise ValueError("its displacements are NaN or infinite")
        vectors = vectors.permute(*reversed(range(n + 1))).contiguous()
        return DisplacementField(vectors, Grid(tuple(vectors.shape[1:]), flip_affine(torch.from_numpy(affine))))
    raise ValueError(f"a {kind} is not supported")


def _to_itk(transform: SpatialTransform) -> Any:
    n = transform.ndim
    if isinstance(transform, AffineTransform):
        affine = itk_class("AffineTransform", f"D{n}").New()
        affine.SetParameters(affine_parameters(transform.matrix.detach().cpu()))
        return affine
    if isinstance(transform, DisplacementField):
        image = itk_class("Image", f"VD{n}{n}").New()
        image.SetRegions(list(transform.grid.shape))
        image.Allocate()
        vectors = transform.vectors.detach().cpu().permute(*reversed(range(n + 1)))
        itk_class("PyBuffer", f"IVD{n}{n}").GetArrayViewFromImage(image)[...] = flip_points(vectors).numpy()
        place_image(image, transform.grid)
        field = itk_class("DisplacementFieldTransform", f"D{n}").New()
        field.SetDisplacementField(image)
        return field
    raise TypeError(f"a {type(transform).__name__} has no equivalent in ITK")
