# SPDX-License-Identifier: Apache-2.0
"""Displacement fields as 5-D NIfTI files, intent 1007 (vector), LPS mm, as ITK, ANTs and Slicer use them."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import torch

from regplugins.io.files import PathLike, existing
from regplugins.io.nifti_writer import write_nifti
from regplugins.spatial.grid import Grid
from regplugins.spatial.transforms import DisplacementField, SpatialTransform

_VECTOR = 1007
_SCANNER = 1


def read_displacement(path: PathLike) -> DisplacementField:
    """Read a displacement field, ``(X, Y, Z, 1, 3)``, or ``(X, Y, 1, 1, 2)`` in 2-D."""
    path = existing(path)
    try:
        # Decompressed to the end, where the checksum is.
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        image = nib.Nifti1Image.from_bytes(content)
        data = image.get_fdata(dtype=np.float32)
    except Exception as error:  # nibabel raises errors of any type
        raise ValueError(f"{path}: not a readable NIfTI file ({error})") from error
    n = data.shape[4] if data.ndim == 5 else 0
    if n not in (2, 3) or data.shape[3] != 1 or (n == 2 and data.shape[2] != 1):
        raise ValueError(f"{path}: a displacement field is (X, Y, Z, 1, 3) or (X, Y, 1, 1, 2), got shape {data.shape}")
    intent = int(image.header["intent_code"])
    if intent != _VECTOR:
        raise ValueError(f"{path}: a displacement field has intent code {_VECTOR} (vector), got {intent}")
    if not np.isfinite(data).all():
        raise ValueError(f"{path}: {np.count_nonzero(~np.isfinite(data))} displacements are not finite")
    in_plane = [*range(n), 3]
    affine = torch.from_numpy(image.affine.astype(np.float64)[np.ix_(in_plane, in_plane)])
    vectors = torch.from_numpy(data.reshape(*data.shape[:n], n)).movedim(-1, 0).contiguous()
    vectors[:2].neg_()  # LPS; in place, since the field of a scan takes gigabytes
    try:
        grid = Grid(tuple(data.shape[:n]), affine)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return DisplacementField(vectors, grid)


def write_displacement(field: SpatialTransform, path: PathLike) -> None:
    """Write a 2-D or 3-D ``DisplacementField`` as ``.nii`` or ``.nii.gz``; ``ValueError`` for other transforms.

    A single slice is written twice, the second above it.
    """
    if not isinstance(field, DisplacementField):
        raise ValueError(f"{path}: such a file holds a displacement field, got {type(field).__name__}")
    n = field.ndim
    vectors = field.vectors.detach().cpu().numpy()
    grid = field.grid
    if grid.shape[2:] == (1,):  # a second slice, since ITK takes a field of one slice for a 2-D one
        vectors, grid = vectors.repeat(2, axis=-1), Grid((*grid.shape[:2], 2), grid.affine)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((*(*grid.shape, 1)[:3], 1, n))
    header.set_intent(_VECTOR)
    header.set_xyzt_units("mm", "sec")
    # One component at a time, since the field of a scan takes gigabytes.
    components = (-component if axis < 2 else component for axis, component in enumerate(vectors))
    write_nifti(components, header, grid, path, world=_SCANNER)
