# SPDX-License-Identifier: Apache-2.0
"""Access to ITK's classes, and conversion of images, points and matrices between RAS+ and its LPS+ world."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regplugins.spatial import Grid

_PIXELS = {torch.float32: "F", torch.uint8: "UC"}


def itk_class(name: str, variant: str, module: str | None = None) -> Any:
    """One instantiation of a class template of ITK.

    The same object as ``itk.<name>[...]``, which first loads all dependencies of its ITK module for ten seconds.
    ``variant`` holds the template arguments as ITK's wrapping abbreviates them, such as "D3". ``module`` is the
    wrapping file that holds the class, if its name differs.
    """
    return getattr(importlib.import_module(f"itk.itk{module or name}Python"), f"itk{name}{variant}")


def image_to_itk(values: Tensor, grid: Grid) -> Any:
    """Convert an image ``(*grid.shape)``, float32 or uint8 on the CPU, to ITK."""
    n = grid.ndim
    kind = f"I{_PIXELS[values.dtype]}{n}"
    view = itk_class("PyBuffer", kind).GetImageViewFromArray(np.ascontiguousarray(values.numpy().T))
    # The view does not keep the array alive.
    duplicator = itk_class("ImageDuplicator", kind).New()
    duplicator.SetInputImage(view)
    duplicator.Update()
    image = duplicator.GetOutput()
    place_image(image, grid)
    return image


def place_image(image: Any, grid: Grid) -> None:
    """Set spacing, origin and direction of an image of ITK to those of a grid."""
    n, affine, spacing = grid.ndim, flip_affine(grid.affine).numpy(), grid.spacing.numpy()
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:n, n].tolist())
    image.SetDirection(np.ascontiguousarray(affine[:n, :n] / spacing))


def affine_parameters(matrix: Tensor) -> Any:
    """Parameters of ITK's affine transform about the origin for a matrix ``(n + 1, n + 1)`` between RAS+ worlds."""
    n = matrix.shape[0] - 1
    # NumPy's tolist is ten times as fast as torch's.
    array = flip_matrix(matrix).numpy()
    values = [*array[:n, :n].ravel().tolist(), *array[:n, n].tolist()]
    parameters = itk_class("OptimizerParameters", "D")(len(values))
    for k, value in enumerate(values):
        parameters.SetElement(k, value)
    return parameters


def flip_points(points: Tensor) -> Tensor:
    """Points or vectors ``(..., n)`` with the first two coordinates negated, as between RAS+ and LPS+."""
    return points * _signs(points.shape[-1]).to(points)


def flip_matrix(matrix: Tensor) -> Tensor:
    """Homogeneous matrix ``(n + 1, n + 1)`` of a transform between two worlds."""
    signs = torch.cat([_signs(matrix.shape[0] - 1), torch.ones(1)]).to(matrix)
    return signs[:, None] * matrix * signs + 0.0  # no negative zeros in the files


def flip_affine(affine: Tensor) -> Tensor:
    """Affine ``(n + 1, n + 1)`` from voxel indices to a world."""
    return torch.cat([flip_points(affine[:-1].T).T, affine[-1:]])


def _signs(n: int) -> Tensor:
    return torch.tensor([-1.0, -1.0, 1.0][:n])
