# SPDX-License-Identifier: Apache-2.0
"""Resampling of images and label maps onto another grid, through a transform, with the semantics of ITK."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from regplugins.checks import choice
from regplugins.spatial.grid import Grid
from regplugins.spatial.interpolation import interpolate_labels, interpolate_linear, interpolate_nearest
from regplugins.spatial.transforms import AffineTransform, DisplacementField, SpatialTransform, row_chunks

if TYPE_CHECKING:
    from monai.data import MetaTensor
# Hounsfield units of air as scanners and other programs write it.
_AIR = -1024.0
# An image whose minimum lies between these is taken for a CT. Scanners pad a CT with -2000 or -3024; phase images of MR
# begin at -4096.
_CT_MINIMUM = (-3100.0, -900.0)
# PyTorch stores these types but does not compute with them.
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def resample(
    image: Tensor,
    source: Grid,
    target: Grid,
    transform: SpatialTransform | None = None,
    mode: str = "linear",
    fill: float | None = 0.0,
) -> Tensor:
    """Resample an image onto a grid: ``out(x) = image(T(x))``.

    As in ITK's ``ResampleImageFilter``, voxels outside the image's field of view become ``fill``. Between the outermost
    voxel centers and the edge of the field of view, half a voxel, the image continues from its border. Memory beyond
    image and result stays at some tens of megabytes.

    Args:
        image: ``(C, *source.shape)``, any type.
        source: grid of the image.
        target: grid of the result.
        transform: maps the target's world to the source's, RAS+ mm; default: identity.
        mode: "linear" or "nearest".
        fill: value outside the image; None continues the image from its border.

    Returns:
        ``(C, *target.shape)`` on the image's device; "nearest" keeps the type, "linear" gives float32, or float64 for
        float64.

    Raises:
        ValueError: if the mode is unknown, or shapes or dimensions do not match.
    """
    interpolate = choice("mode", mode, {"linear": interpolate_linear, "nearest": interpolate_nearest})
    return _resample(_real(image) if mode == "linear" else image, source, target, transform, fill, interpolate)


def outside_value(image: Tensor, fill: float | None = None, is_label: bool = False) -> float:
    """Value outside an image: ``fill`` if it is given, −1024 of a CT in Hounsfield units, 0 of others and of labels."""
    if fill is not None:
        return fill
    return _AIR if not is_label and is_ct(image) else 0.0


def is_ct(image: Tensor) -> bool:
    """Tell whether the minimum of an image is that of air in Hounsfield units, or of padding around it."""
    if not image.dtype.is_signed:
        return False
    low, high = _CT_MINIMUM
    return low < float(image.min()) <= high


def resample_to_grid(image: MetaTensor, target: Grid, transform: SpatialTransform | None = None) -> Tensor:
    """Resample an image ``(1, *spatial)`` to the network grid, ``(1, *target.shape)`` float32.

    It is averaged first along axes of which the grid is much coarser, and continues from its border outside.
    """
    source = Grid.from_image(image)
    n = source.ndim
    # The target's voxel, an ellipsoid, along the axes of the source.
    steps = torch.linalg.inv(target.affine[:n, :n]) @ (source.affine[:n, :n] / source.spacing)
    values, source = antialiased(image.as_tensor(), source, (1 / steps.norm(dim=0)).tolist())
    return resample(values, source, target, transform, fill=None)


def _real(image: Tensor) -> Tensor:
    return image.to(torch.promote_types(image.dtype, torch.float32))


def antialiased(image: Tensor, grid: Grid, spacing: Sequence[float]) -> tuple[Tensor, Grid]:
    """Average an image ``(1, *grid.shape)`` over blocks of voxels of at most ``spacing`` mm per axis, against aliasing.

    Returns the averages and their grid.
    """
    # Headers are rounded: a voxel of 2.0000001 mm counts as 2 mm.
    blocks = [int(wanted / size + 1e-3) or 1 for wanted, size in zip(spacing, grid.spacing.tolist(), strict=True)]
    blocks = [min(block, size) for block, size in zip(blocks, grid.shape, strict=True)]
    if math.prod(blocks) == 1:
        return image, grid
    return block_mean(image, blocks), grid.coarsened(blocks)


def block_mean(image: Tensor, blocks: Sequence[int]) -> Tensor:
    """Mean of each block of ``(1, *spatial)``, float32 or float64; incomplete blocks at the far ends are dropped."""
    pool = F.avg_pool3d if image.ndim == 4 else F.avg_pool2d
    # In parts, to save the memory of a whole volume in float32.
    parts = image[:, : image.shape[1] // blocks[0] * blocks[0]].split(8 * blocks[0], dim=1)
    return torch.cat([pool(_real(part)[None], list(blocks))[0] for part in parts], dim=1)


def downsample(image: Tensor, strides: int | Sequence[int] = 2) -> Tensor:
    """Mean of 3 voxels along each axis of ``(B, C, *spatial)`` at every second voxel, ``ceil(spatial / 2)`` of them.

    Voxel ``i`` of the result lies on voxel ``2 i``, as with max pooling and ``upsample_ddf``. ``strides`` are 2, or 1
    for axes that stay as they are.
    """
    pool = F.avg_pool3d if image.dim() == 5 else F.avg_pool2d
    strides = (strides,) * (image.dim() - 2) if isinstance(strides, int) else tuple(strides)
    # PyTorch refuses a kernel larger than the image, whatever the padding.
    kernel = [min(2 * stride - 1, size) for stride, size in zip(strides, image.shape[2:], strict=True)]
    padding = [size // 2 if size % 2 else 0 for size in kernel]
    return pool(image, kernel_size=kernel, stride=strides, padding=padding, count_include_pad=False)


def overlap(target: Grid, source: Grid, transform: SpatialTransform) -> bool:
    """Tell whether any voxel of ``target`` is mapped into the field of view of ``source``."""
    return any(bool(source.contains(transform.map_grid(target, rows)).any()) for rows in row_chunks(target.shape))


def resample_labels(
    label: Tensor, source: Grid, target: Grid, transform: SpatialTransform | None = None, mode: str = "nearest"
) -> Tensor:
    """Resample a label map ``(1, *source.shape)`` of any type onto a grid; outside the map the label is 0.

    Arguments, device and errors are as of ``resample``, the result ``(1, *target.shape)`` keeps the type. The mode
    "linear" gives the label whose linearly interpolated indicator is largest, with smoother borders.
    """
    if label.shape[0] != 1:
        raise ValueError(f"expected a label map (1, *spatial), got shape {tuple(label.shape)}")
    interpolate = choice("mode", mode, {"nearest": interpolate_nearest, "linear": interpolate_labels})
    return _resample(label, source, target, transform, 0, interpolate)


def _resample(
    image: Tensor,
    source: Grid,
    target: Grid,
    transform: SpatialTransform | None,
    fill: float | None,
    interpolate: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    if tuple(image.shape[1:]) != source.shape:
        raise ValueError(f"expected an image (C, *spatial) of spatial shape {source.shape}, got {tuple(image.shape)}")
    if transform is None:
        transform = AffineTransform.identity(source.ndim)
    if not source.ndim == target.ndim == transform.ndim:
        raise ValueError(
            f"{source.ndim}-D image, {target.ndim}-D grid and {transform.ndim}-D transform do not belong together"
        )
    # Composition merges this affine with the transform's outermost one, so that it costs nothing.
    to_index = AffineTransform(torch.linalg.inv(source.affine)) @ transform
    if image.dtype in _WIDER:
        wide = image.to(_WIDER[image.dtype])
        return _resample(wide, source, target, transform, fill, interpolate).to(image.dtype)
    image = image.as_subclass(Tensor).contiguous()
    if isinstance(to_index, AffineTransform) and source.shape == target.shape:
        between_voxels = to_index.matrix @ target.affine
        if torch.allclose(between_voxels, torch.eye(source.ndim + 1, dtype=torch.float64), rtol=0, atol=1e-7):
            return image.clone()
    out = image.new_empty((image.shape[0], *target.shape))
    for rows in row_chunks(target.shape):
        index = to_index.map_grid(target, rows, image.device)
        out[:, rows] = interpolate(image, index)
        if fill is not None:
            sides = zip(index.unbind(dim=-1), source.shape, strict=True)
            # Axis by axis: a reduction over two or three numbers takes several times as long.
            inside = reduce(torch.logical_and, [(axis >= -0.5) & (axis < size - 0.5) for axis, size in sides])
            out[:, rows].masked_fill_(~inside, fill)
    return out


# Weight of the squared second differences. It determines coarse voxels that hardly any fine voxel depends on.
_SMOOTHNESS = 1e-3


def downsample_field(field: DisplacementField, spacing: float) -> DisplacementField:
    """Least-squares fit of a 2-D or 3-D field by linear interpolation on a coarser grid with the same axis directions.

    ``spacing`` is in mm; an axis with larger voxels keeps their size. The grid reaches a voxel beyond the field, since
    ITK takes a field to be zero outside its grid. The fit is exact where displacements are linear in space.
    """
    sizes = field.grid.spacing.clamp(min=spacing)
    shape = [size + 2 for size in field.grid.resized(sizes).shape]
    grid = field.grid.resized(sizes, shape)
    projections = [_projection(field.grid, grid, axis).to(field.vectors) for axis in range(grid.ndim)]
    vectors = field.vectors.new_empty((grid.ndim, *shape))
    for component, out in zip(field.vectors, vectors, strict=True):
        for axis, projection in enumerate(projections):
            component = torch.tensordot(projection, component, dims=([1], [axis])).movedim(0, axis)
        out.copy_(component)
    return DisplacementField(vectors, grid)


def downsampling_error(field: DisplacementField, coarse: DisplacementField) -> float:
    """Largest distance in voxels between the points to which two fields move the voxels of the first."""
    n = field.ndim
    largest = 0.0
    for rows in row_chunks(field.grid.shape):
        # Each chunk becomes a grid, since sampling on a grid is much faster than at points.
        affine = field.grid.affine.clone()
        affine[:n, n] += rows.start * affine[:n, 0]
        part = Grid((rows.stop - rows.start, *field.grid.shape[1:]), affine)
        vectors = field.vectors[:, rows]
        difference = DisplacementField(coarse.sample(part).vectors.to(vectors.device) - vectors, part)
        largest = max(largest, float(difference.to_ddf().norm(dim=0).max()))
    return largest


def _projection(fine: Grid, coarse: Grid, axis: int) -> Tensor:
    """Least-squares projection ``(coarse, fine)`` along one axis, float64; the grid's is the product over axes."""
    if fine.shape[axis] == 1:  # no slope is known
        return torch.ones(coarse.shape[axis], 1, dtype=torch.float64)
    to_index = torch.linalg.inv(coarse.affine) @ fine.affine
    index = to_index[axis, axis] * torch.arange(fine.shape[axis], dtype=torch.float64) + to_index[axis, -1]
    corners = torch.arange(coarse.shape[axis], dtype=torch.float64)
    weights = (1 - (index[:, None] - corners).abs()).clamp(min=0)
    bends = torch.diff(torch.eye(len(corners), dtype=torch.float64), n=2, dim=0)
    return torch.linalg.solve(weights.T @ weights + _SMOOTHNESS * bends.T @ bends, weights.T)
