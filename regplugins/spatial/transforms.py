# SPDX-License-Identifier: Apache-2.0
"""Spatial transforms: maps of points from one RAS+ world, in millimeters, to another.

A registration's transform maps the fixed world to the moving world, the direction in which images are resampled, as in
ITK and nitransforms. ``~T`` inverts, ``(A @ B)(p) = A(B(p))``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from regplugins.spatial.ddf import compose_ddf
from regplugins.spatial.grid import Grid, apply_affine, voxel_positions
from regplugins.spatial.interpolation import interpolate_along_axes, interpolate_linear
from regplugins.spatial.inversion import invert_ddf

_CHUNK_POINTS = 2**18
# Of the grid of an inverse beyond that of its field at either end of an axis, as a fraction of the axis.
_MAX_EXTENSION = 0.5
# Voxels by which a field may leave its grid without an extension, of the size of rounding.
_BESIDE = 1e-3


def row_chunks(shape: Sequence[int]) -> Iterator[slice]:
    """Parts of a grid's first axis of at most 2**18 voxels (at least one row), to bound memory."""
    rows = max(1, _CHUNK_POINTS // math.prod(shape[1:]))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


class SpatialTransform(ABC):
    """Map of points ``(..., n)``, RAS+ mm, of an ``n``-dimensional world."""

    @property
    @abstractmethod
    def ndim(self) -> int:
        """Number of dimensions ``n``, 2 or 3."""

    @abstractmethod
    def __call__(self, points: Tensor) -> Tensor:
        """Map points ``(..., n)``, RAS+ mm; their type and device are kept."""

    @abstractmethod
    def inverse(self) -> SpatialTransform:
        """Inverse transform."""

    def __invert__(self) -> SpatialTransform:
        return self.inverse()

    def __matmul__(self, inner: SpatialTransform) -> SpatialTransform:
        parts = CompositeTransform([self, inner])
        return parts.transforms[0] if len(parts.transforms) == 1 else parts

    def map_grid(self, grid: Grid, rows: slice | None = None, device: torch.device | str | None = None) -> Tensor:
        """Result of the transform at ``grid.coordinates(rows, device)``, where possible computed faster."""
        return self(grid.coordinates(rows, device))

    def sample(self, grid: Grid, device: torch.device | str | None = None) -> DisplacementField:
        """Displacement field ``T(x) - x`` of this transform on a grid, computed on ``device`` (default: CPU)."""
        vectors = torch.empty((grid.ndim, *grid.shape), device=device)
        for rows in row_chunks(grid.shape):
            displacement = self.map_grid(grid, rows, device) - grid.coordinates(rows, device)
            vectors[:, rows] = displacement.movedim(-1, 0).to(vectors.dtype)
        return DisplacementField(vectors, grid)


class AffineTransform(SpatialTransform):
    """Affine transform ``p -> A p + t``.

    Args:
        matrix: ``(n + 1, n + 1)`` homogeneous matrix between RAS+ worlds, mm; kept in float64 on the CPU.

    Raises:
        ValueError: if the matrix is not a finite homogeneous one of 2-D or 3-D.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = torch.as_tensor(matrix).to("cpu", torch.float64)
        n = self.matrix.shape[0] - 1
        if self.matrix.shape not in ((3, 3), (4, 4)):
            raise ValueError(f"an affine matrix is 3 x 3 or 4 x 4, got shape {tuple(self.matrix.shape)}")
        if not self.matrix.isfinite().all() or self.matrix[n].tolist() != [0.0] * n + [1.0]:
            raise ValueError(f"the matrix must be finite with last row {[0] * n + [1]}, got {self.matrix.tolist()}")

    @classmethod
    def identity(cls, ndim: int) -> AffineTransform:
        """Identity transform of ``ndim`` dimensions."""
        return cls(torch.eye(ndim + 1, dtype=torch.float64))

    @classmethod
    def fitted(cls, transform: SpatialTransform, grid: Grid) -> AffineTransform:
        """Least-squares fit to another transform at the corners of a grid; of a single slice at both its faces."""
        ends = [
            torch.tensor([0.0, size - 1.0] if size > 1 else [-0.5, 0.5], dtype=torch.float64) for size in grid.shape
        ]
        corners = grid.index_to_world(torch.cartesian_prod(*ends))
        ones = torch.ones(len(corners), 1, dtype=torch.float64)
        columns = torch.linalg.lstsq(torch.cat([corners, ones], dim=1), transform(corners)).solution
        last = torch.eye(grid.ndim + 1, dtype=torch.float64)[-1:]
        return cls(torch.cat([columns.T, last]))

    @property
    def ndim(self) -> int:
        return self.matrix.shape[0] - 1

    def __call__(self, points: Tensor) -> Tensor:
        return apply_affine(self.matrix, points)

    def inverse(self) -> AffineTransform:
        return AffineTransform(torch.linalg.inv(self.matrix))

    def map_grid(self, grid: Grid, rows: slice | None = None, device: torch.device | str | None = None) -> Tensor:
        return voxel_positions(grid.shape, self.matrix @ grid.affine, rows, device)


class DisplacementField(SpatialTransform):
    """Transform ``p -> p + u(p)`` with ``u`` linearly interpolated on a grid and continued from its border outside.

    Args:
        vectors: ``(n, *shape)`` displacements in mm along the RAS+ axes; kept in float32. They must fit the grid.
        grid: grid of the vectors.
        residual: for an inverse, its error in mm at each voxel, ``(*shape)``.
    """

    def __init__(self, vectors: Tensor, grid: Grid, residual: Tensor | None = None) -> None:
        if tuple(vectors.shape) != (grid.ndim, *grid.shape):
            expected = (grid.ndim, *grid.shape)
            raise ValueError(f"expected vectors of shape {expected} on this grid, got {tuple(vectors.shape)}")
        self.vectors = vectors.as_subclass(Tensor).to(torch.float32)
        self.grid = grid
        self.residual = residual

    @classmethod
    def from_ddf(cls, ddf: Tensor, grid: Grid) -> DisplacementField:
        """Field of ``(n, *shape)`` displacements in voxels of the grid, channel ``k`` along array axis ``k``."""
        return cls(_apply_linear(grid.affine, ddf), grid)

    def to_ddf(self) -> Tensor:
        """Displacements ``(n, *shape)`` in voxels of the grid, channel ``k`` along array axis ``k``."""
        return _apply_linear(torch.linalg.inv(self.grid.affine), self.vectors)

    @property
    def ndim(self) -> int:
        return self.grid.ndim

    def __call__(self, points: Tensor) -> Tensor:
        if not points.is_floating_point():
            points = points.double()
        index = self.grid.world_to_index(points.to(torch.float64))
        vectors = interpolate_linear(self.vectors.to(points.device), index)
        return points + vectors.movedim(0, -1).to(points.dtype)

    def map_grid(self, grid: Grid, rows: slice | None = None, device: torch.device | str | None = None) -> Tensor:
        points = grid.coordinates(rows, device)
        if not self.grid.matches(grid):
            return self(points)
        return points + self.vectors[:, rows or slice(None)].movedim(0, -1).to(points)

    def sample(self, grid: Grid, device: torch.device | str | None = None) -> DisplacementField:
        to_index = torch.linalg.inv(self.grid.affine) @ grid.affine
        vectors = interpolate_along_axes(self.vectors.to(device or "cpu"), to_index, grid.shape)
        return super().sample(grid, device) if vectors is None else DisplacementField(vectors, grid)

    def inverse(self, grid: Grid | None = None) -> DisplacementField:
        """Invert by ``invert_ddf`` on a grid; ``residual`` of the result is its error in mm.

        By default the grid is the field's, extended to where the field maps its voxels, at most to twice its size.
        """
        target = self._image_grid() if grid is None else grid
        forward = (self if target is self.grid else self.sample(target, self.vectors.device)).to_ddf()[None]
        inverse, _ = invert_ddf(forward)
        residual = _apply_linear(target.affine, compose_ddf(forward, inverse)[0])
        return DisplacementField(_apply_linear(target.affine, inverse[0]), target, residual.norm(dim=0))

    def _image_grid(self) -> Grid:
        """The field's grid, extended by whole voxels to cover its voxels where the field maps them."""
        ddf = self.to_ddf()
        before: list[int] = []
        after: list[int] = []
        for axis, size in enumerate(self.grid.shape):
            places = torch.arange(size, device=ddf.device).view(-1, *[1] * (self.ndim - 1 - axis)) + ddf[axis]
            low, high = (value.item() for value in places.aminmax())
            beyond = (math.ceil(-low - _BESIDE), math.ceil(high - (size - 1) - _BESIDE))
            for number, sides in zip(beyond, (before, after), strict=True):
                sides.append(min(max(0, number), math.ceil(_MAX_EXTENSION * size)))
        if not any(before + after):
            return self.grid
        affine = self.grid.affine.clone()
        affine[:-1, -1] = self.grid.index_to_world(-torch.tensor(before, dtype=torch.float64))
        sizes = zip(self.grid.shape, before, after, strict=True)
        return Grid(tuple(sum(one) for one in sizes), affine)


class CompositeTransform(SpatialTransform):
    """Composition of transforms, the first listed outermost: ``CompositeTransform([A, B])(p) = A(B(p))``.

    Args:
        transforms: composites are flattened and neighboring affine transforms are merged.

    Raises:
        ValueError: if there are none, or their dimensions differ.
    """

    def __init__(self, transforms: Sequence[SpatialTransform]) -> None:
        dimensions = [transform.ndim for transform in transforms]
        if len(set(dimensions)) != 1:
            raise ValueError(f"expected transforms of one dimension, got dimensions {dimensions}")
        flat: list[SpatialTransform] = []
        for transform in transforms:
            for part in transform.transforms if isinstance(transform, CompositeTransform) else [transform]:
                if flat and isinstance(flat[-1], AffineTransform) and isinstance(part, AffineTransform):
                    flat[-1] = AffineTransform(flat[-1].matrix @ part.matrix)
                else:
                    flat.append(part)
        self.transforms: tuple[SpatialTransform, ...] = tuple(flat)

    @property
    def ndim(self) -> int:
        return self.transforms[0].ndim

    def __call__(self, points: Tensor) -> Tensor:
        for transform in reversed(self.transforms):
            points = transform(points)
        return points

    def map_grid(self, grid: Grid, rows: slice | None = None, device: torch.device | str | None = None) -> Tensor:
        *others, innermost = self.transforms
        points = innermost.map_grid(grid, rows, device)
        for transform in reversed(others):
            points = transform(points)
        return points

    def inverse(self) -> CompositeTransform:
        return CompositeTransform([transform.inverse() for transform in reversed(self.transforms)])


def _apply_linear(affine: Tensor, vectors: Tensor) -> Tensor:
    """Apply the linear part of (n + 1, n + 1) to vectors (n, *shape), in float32 whatever the autocast state."""
    n = affine.shape[0] - 1
    with torch.autocast(device_type=vectors.device.type, enabled=False):
        vectors = vectors.to(torch.float32)
        return torch.tensordot(affine[:n, :n].to(vectors), vectors, dims=1)


# Rotations about the world's x, then y, then z axis.
_ORDER = "xyz"
_TOLERANCE = 1e-4


def rigid_transform(parameters: Tensor, center: Tensor) -> AffineTransform:
    """Rigid transform ``x -> R (x - center) + center + shift`` with ``R = Rz Ry Rx``, center ``(3,)`` in world mm.

    The parameters ``(6,)`` are angles about the world's fixed x, y and z axes in degrees, and shifts along them in mm.
    """
    values = parameters.detach().cpu().double()
    rotation = torch.from_numpy(Rotation.from_euler(_ORDER, values[:3].numpy(), degrees=True).as_matrix())
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = center + values[3:] - rotation @ center.double()
    return AffineTransform(matrix)


def rigid_parameters(transform: AffineTransform, center: Tensor) -> Tensor:
    """Parameters ``(6,)`` of ``rigid_transform`` for a rigid transform; the second angle lies within 90 degrees.

    Raises:
        ValueError: if the transform is not 3-D and rigid.
    """
    matrix = transform.matrix
    rotation = matrix[:3, :3]
    orthogonal = matrix.shape == (4, 4) and (rotation @ rotation.T - torch.eye(3).double()).abs().max() < _TOLERANCE
    if not orthogonal or torch.linalg.det(rotation) < 0:
        raise ValueError(f"expected a rigid 3-D transform, got {matrix.tolist()}")
    angles = torch.from_numpy(Rotation.from_matrix(rotation.numpy()).as_euler(_ORDER, degrees=True))
    return torch.cat([angles, transform(center.double()) - center])
