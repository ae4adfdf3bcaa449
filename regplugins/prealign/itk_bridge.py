# SPDX-License-Identifier: Apache-2.0
"""The parts of ITK's registration framework that are used here, and images as it sees them (LPS mm)."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from torch import Tensor

from regplugins.io.lps import flip_affine
from regplugins.spatial.grid import Grid


def itk_class(name: str, variant: str) -> Any:
    """A wrapped class of ITK by the name that its C++ template has in one variant.

    ``itk.<name>`` would load all that its module depends on, most of ITK, with some ten seconds of computing time, of
    which the registration needs a tenth.

    Args:
        name: such as "AffineTransform".
        variant: its template's arguments as the bindings abbreviate them, such as "D3".
    """
    module = importlib.import_module(f"itk.itk{name.removesuffix('Template')}Python")
    return getattr(module, f"itk{name}{variant}")


def to_itk(values: Tensor, grid: Grid) -> Any:
    """An image as ITK sees it.

    Args:
        values: ``(*grid.shape)`` float32 or uint8 on the CPU.
        grid: where the voxels lie.

    Returns:
        ITK image. Its voxels are those of an array that lives as long as this Python object, which must therefore be
        kept while ITK works with it.
    """
    n = grid.ndim
    pixel = {"float32": "F", "uint8": "UC"}[str(values.numpy().dtype)]
    image = itk_class("PyBuffer", f"I{pixel}{n}").GetImageViewFromArray(np.ascontiguousarray(values.numpy().T))
    affine, spacing = flip_affine(grid.affine).numpy(), grid.spacing.numpy()
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:n, n].tolist())
    image.SetDirection(np.ascontiguousarray(affine[:n, :n] / spacing))
    return image
