# SPDX-License-Identifier: Apache-2.0
"""Images as NIfTI files."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from torch import Tensor

from regplugins.io.files import PathLike
from regplugins.io.nifti_writer import write_nifti
from regplugins.spatial.grid import Grid

_ALIGNED = 2


def write_image(values: Tensor, grid: Grid, path: PathLike, dtype: np.dtype | type = np.float32) -> None:
    """Write an image, world coordinates in both of NIfTI's forms.

    Args:
        values: ``(1, *grid.shape)``.
        grid: where its voxels lie.
        path: ends in ``.nii`` or ``.nii.gz``.
        dtype: of the numbers in the file.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(grid.shape)
    header.set_xyzt_units("mm")
    write_nifti([values[0].detach().cpu().numpy()], header, grid, path, world=_ALIGNED)
