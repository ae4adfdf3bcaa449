# SPDX-License-Identifier: Apache-2.0
"""Position of an image's voxels in the world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from nibabel.orientations import inv_ornt_aff, io_orientation
from torch import Tensor

if TYPE_CHECKING:
    from monai.data import MetaTensor


# Largest sine of the angle between the axes of a 2-D image and its plane.
_TILT = 0.01


def apply_affine(matrix: Tensor, points: Tensor) -> Tensor:
    """Map points ``(..., n)`` by a homogeneous matrix ``(n + 1, n + 1)``, computed in float64.

    The result keeps the device and the floating-point type of the points; integers become float64.
    """
    n = matrix.shape[0] - 1
    matrix = matrix.to(points.device)
    mapped = F.linear(points.to(torch.float64), matrix[:n, :n], matrix[:n, n])
    return mapped.to(points.dtype) if points.is_floating_point() else mapped


def voxel_positions(
    shape: Sequence[int], affine: Tensor, rows: slice | None = None, device: torch.device | str | None = None
) -> Tensor:
    """World positions ``(*shape, n)`` float64 of the voxels of an array, by its affine ``(n + 1, n + 1)`` float64.

    ``rows`` selects a part of the first axis. The default device is the CPU.
    """
    n = len(shape)
    affine = affine.to(device)
    points = affine[:n, n].expand(*[1] * n, n)
    for k in reversed(range(n)):
        index = torch.arange(shape[k], dtype=torch.float64, device=device)
        if k == 0 and rows is not None:
            index = index[rows]
        points = points + index.view(-1, *[1] * (n - k)) * affine[:n, k]
    return points


def in_plane(affine: Tensor, n: int) -> Tensor:
    """Part ``(n + 1, n + 1)`` of an affine ``(4, 4)`` that places an ``n``-D image; one of that size is returned.

    Raises ``ValueError`` if it tilts a 2-D image, whose pixels would shrink. The message is a predicate without a
    subject.
    """
    if n == 2 and len(affine) == 4 and (affine[2, :2].abs() > _TILT * affine[:3, :2].norm(dim=0)).any():
        raise ValueError("tilts a 2-D image out of its plane")
    axes = torch.tensor([*range(n), len(affine) - 1])
    return affine[axes[:, None], axes]


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel grid of a 2-D or 3-D image in the RAS+ world (in 2-D its first two axes), in millimeters.

    The center of voxel ``i`` is ``affine @ (i, 1)``. The field of view reaches half a voxel beyond the outermost
    centers.

    Args:
        shape: sizes of the ``n`` spatial axes, in the order of the array.
        affine: ``(n + 1, n + 1)`` voxel index to RAS+ mm; kept in float64 on the CPU.

    Raises:
        ValueError: if the grid is not 2-D or 3-D, a size is below one, or the affine does not fit, is not finite or not
            invertible.
    """

    shape: tuple[int, ...]
    affine: Tensor

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.shape)
        n = len(shape)
        if n not in (2, 3) or min(shape) < 1 or shape != tuple(self.shape):
            raise ValueError(f"a grid has two or three sizes, whole numbers of at least 1, got {tuple(self.shape)}")
        affine = torch.as_tensor(self.affine).detach().to("cpu", torch.float64).clone()
        if affine.shape != (n + 1, n + 1):
            raise ValueError(f"the affine of a {n}-D grid is {n + 1} x {n + 1}, got shape {tuple(affine.shape)}")
        if not affine.isfinite().all() or affine[n].tolist() != [0.0] * n + [1.0]:
            raise ValueError(f"the affine must be finite with last row {[0] * n + [1]}, got {affine.tolist()}")
        columns = affine[:n, :n].norm(dim=0)
        if columns.min() == 0 or torch.linalg.det(affine[:n, :n] / columns).abs() < 1e-6:
            raise ValueError(f"the affine is not invertible: {affine.tolist()}")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def from_image(cls, image: MetaTensor) -> Grid:
        """Grid of a MONAI image ``(C, *spatial)``; a 2-D image uses the in-plane part of its 4 x 4 affine.

        Raises ``ValueError`` if the affine does not fit, or tilts a 2-D image out of its plane.
        """
        try:
            affine = in_plane(image.affine, image.ndim - 1)
        except ValueError as error:
            raise ValueError(f"the affine of a MetaTensor {error}; give it one of its pixel size") from error
        return cls(tuple(image.shape[1:]), affine)

    @property
    def ndim(self) -> int:
        """Number of spatial axes ``n``."""
        return len(self.shape)

    @property
    def spacing(self) -> Tensor:
        """Voxel size along each axis, ``(n,)`` mm."""
        return self.affine[: self.ndim, : self.ndim].norm(dim=0)

    @property
    def center(self) -> Tensor:
        """Center of the field of view, ``(n,)`` RAS+ mm."""
        return self.index_to_world((torch.tensor(self.shape, dtype=torch.float64) - 1) / 2)

    def index_to_world(self, points: Tensor) -> Tensor:
        """Map ``(..., n)`` voxel indices to RAS+ mm."""
        return apply_affine(self.affine, points)

    def world_to_index(self, points: Tensor) -> Tensor:
        """Map ``(..., n)`` RAS+ mm to continuous voxel indices."""
        return apply_affine(torch.linalg.inv(self.affine), points)

    def contains(self, points: Tensor) -> Tensor:
        """Tell which points ``(..., n)``, RAS+ mm, lie in the field of view; as in ITK, its upper faces do not."""
        index = self.world_to_index(points.to(torch.float64))
        parts = zip(index.unbind(-1), self.shape, strict=True)
        return reduce(torch.logical_and, ((part >= -0.5) & (part < size - 0.5) for part, size in parts))

    def coordinates(self, rows: slice | None = None, device: torch.device | str | None = None) -> Tensor:
        """World points of the voxel centers: ``(*shape, n)`` float64 RAS+ mm; see ``voxel_positions``."""
        return voxel_positions(self.shape, self.affine, rows, device)

    def canonical(self) -> Grid:
        """The same voxels with the axes permuted and flipped to be nearest to RAS+."""
        affine = self.affine.numpy()
        orientation = io_orientation(affine)
        shape = [0] * self.ndim
        for size, axis in zip(self.shape, orientation[:, 0], strict=True):
            shape[int(axis)] = size
        return Grid(tuple(shape), torch.from_numpy(affine @ inv_ornt_aff(orientation, self.shape)))

    def resized(self, spacing: Sequence[float] | Tensor, shape: Sequence[int] | None = None) -> Grid:
        """Grid with the same axes and center, of ``n`` voxel sizes in mm (``ValueError`` if they are not positive).

        The default shape is the smallest that covers this field of view.
        """
        new = torch.as_tensor(spacing, dtype=torch.float64)
        if new.shape != (self.ndim,) or not (new > 0).all():
            raise ValueError(f"expected {self.ndim} positive voxel sizes, got {new.tolist()}")
        n = self.ndim
        if shape is None:
            extent = torch.tensor(self.shape) * self.spacing / new
            # NIfTI's float32 affines are rounded; a thousandth of a voxel must not add a whole one.
            shape = [max(1, math.ceil(size - 1e-3)) for size in extent.tolist()]
        affine = self.affine.clone()
        affine[:n, :n] *= new / self.spacing
        affine[:n, n] = self.center - affine[:n, :n] @ ((torch.tensor(shape, dtype=torch.float64) - 1) / 2)
        return Grid(tuple(shape), affine)

    def coarsened(self, blocks: Sequence[int]) -> Grid:
        """Grid of the centers of blocks of voxels; incomplete blocks at the far ends are dropped."""
        step = torch.diag(torch.tensor([*blocks, 1], dtype=torch.float64))
        step[:-1, -1] = (torch.tensor(blocks, dtype=torch.float64) - 1) / 2
        shape = tuple(size // block for size, block in zip(self.shape, blocks, strict=True))
        return Grid(shape, self.affine @ step)

    def matches(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Tell whether another grid has the same shape and corners, but for a fraction of the smallest voxel size."""
        if self.shape != other.shape:
            return False
        corners = torch.cartesian_prod(*[torch.tensor([0.0, float(size)], dtype=torch.float64) for size in self.shape])
        distance = (self.index_to_world(corners) - other.index_to_world(corners)).norm(dim=-1).max()
        return bool(distance <= tolerance * self.spacing.min())
