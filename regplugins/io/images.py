# SPDX-License-Identifier: Apache-2.0
"""Images as NIfTI files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from torch import Tensor

from regplugins.io.files import atomic
from regplugins.spatial.grid import Grid


def write_image(values: Tensor, grid: Grid, path: str | Path, dtype: np.dtype | type = np.float32) -> None:
    """Write ``(1, *grid.shape)`` as NIfTI, world coordinates in both of its forms."""
    affine = np.eye(4)
    n = grid.ndim
    affine[:n, :n] = grid.affine[:n, :n].numpy()
    affine[:n, 3] = grid.affine[:n, n].numpy()
    image = nib.Nifti1Image(values[0].cpu().numpy().astype(dtype, copy=False), affine, dtype=dtype)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    with atomic(path) as temporary:
        nib.save(image, temporary)
