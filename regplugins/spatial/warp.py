# SPDX-License-Identifier: Apache-2.0
"""Spatial transformer: sample an image at displaced voxel positions.

MONAI's ``Warp`` builds its sampling grid in the displacement field's own precision (up to 0.3 voxel of error in
bfloat16), turns a misspelled mode silently into another one and cannot be scripted; hence this one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regplugins.spatial.sampling import sample


def identity_grid(shape: list[int], device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Voxel indices of a grid.

    Args:
        shape: sizes of the ``n`` spatial axes.
        device: where the result lies.
        dtype: a floating type.

    Returns:
        ``(n, *shape)``; channel ``k`` counts along axis ``k``.
    """
    axes = [torch.arange(size, device=device, dtype=dtype) for size in shape]
    return torch.stack(torch.meshgrid(axes, indexing="ij"))


def _sampling_grid(ddf: Tensor, shape: list[int]) -> Tensor:
    """(B, n, *spatial) voxel displacements in the middle of an image of that shape -> (B, *spatial, n) positions in
    [-1, 1], last axis of the array first, as grid_sample has them.
    """
    n = ddf.shape[1]
    positions: list[Tensor] = []
    for k in range(n - 1, -1, -1):
        size = ddf.shape[2 + k]
        scale = 2.0 / max(shape[k] - 1, 1)
        first = (shape[k] - size) // 2 * scale - 1.0
        axis = torch.arange(size, device=ddf.device, dtype=ddf.dtype) * scale + first
        view = [1] * (n + 1)
        view[1 + k] = size
        positions.append(torch.add(axis.view(view), ddf[:, k], alpha=scale))
    return torch.stack(positions, dim=-1)


def _grid_sample(image: Tensor, ddf: Tensor, mode: str, padding: str) -> Tensor:
    positions = _sampling_grid(ddf, list(image.shape[2:]))
    return sample(image, positions, mode, padding)


def warp(image: Tensor, ddf: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """Resample an image through a dense displacement field: ``warped(x) = image(x + ddf(x))``.

    Positions are computed in float32 (float64 for a float64 field) whatever the autocast state. Differentiable in both
    arguments, scriptable, traceable and exportable to ONNX.

    Args:
        image: ``(B, C, *spatial)``, 2-D or 3-D.
        ddf: ``(B, n, *spatial)`` displacement in voxels, channel ``k`` along spatial axis ``k``.
        mode: "bilinear" (trilinear in 3-D) or "nearest".
        padding: what lies outside the image: "border" continues it, "zeros" is empty.

    Returns:
        ``(B, C, *spatial)``, float32 (float64 if an argument is).

    Raises:
        ValueError: unknown mode or padding, or shapes that do not belong together.
    """
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"mode must be 'bilinear' or 'nearest', got '{mode}'")
    if padding not in ("border", "zeros"):
        raise ValueError(f"padding must be 'border' or 'zeros', got '{padding}'")
    n = image.dim() - 2
    if n < 2 or n > 3 or ddf.dim() != image.dim() or ddf.shape[1] != n or ddf.shape[2:] != image.shape[2:]:
        raise ValueError(
            f"image (B, C, *spatial) and ddf (B, n, *spatial) do not belong together: {image.shape} and {ddf.shape}"
        )
    return _warped(image, ddf, mode, padding)


def warp_center(image: Tensor, ddf: Tensor) -> Tensor:
    """Resample the middle of an image, linearly, through a displacement field that is known there only.

    Args:
        image: ``(B, C, *spatial)``, 2-D or 3-D; beyond it, its border continues.
        ddf: ``(B, n, *inner)`` displacement in voxels; along every axis as large as the image or smaller by an even
            number.

    Returns:
        ``(B, C, *inner)``, float32 (float64 if an argument is).

    Raises:
        ValueError: shapes that do not belong together.
    """
    n = image.dim() - 2
    belong = 2 <= n <= 3 and ddf.dim() == image.dim() and ddf.shape[1] == n
    if not belong or any(a < b or (a - b) % 2 for a, b in zip(image.shape[2:], ddf.shape[2:], strict=True)):
        raise ValueError(
            f"image (B, C, *spatial) and ddf (B, n, *inner) do not belong together: {image.shape} and {ddf.shape}"
        )
    return _warped(image, ddf, "bilinear", "border")


def _warped(image: Tensor, ddf: Tensor, mode: str, padding: str) -> Tensor:
    double = image.dtype == torch.float64 or ddf.dtype == torch.float64
    dtype = torch.float64 if double else torch.float32
    if torch.jit.is_scripting():  # a script cannot switch autocast off for a device it does not know
        return _grid_sample(image.to(dtype), ddf.to(dtype), mode, padding)
    with torch.autocast(device_type=image.device.type, enabled=False):
        return _grid_sample(image.to(dtype), ddf.to(dtype), mode, padding)
