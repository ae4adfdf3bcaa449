# SPDX-License-Identifier: Apache-2.0
"""Spatial transformer: sampling of an image at displaced voxel positions.

MONAI's ``Warp`` computes positions in the field's own precision (up to 0.3 voxel of error in bfloat16), accepts
misspelled modes and cannot be scripted.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def identity_grid(shape: list[int], device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Voxel indices of a grid of ``n`` axes: ``(n, *shape)``, channel ``k`` counts along axis ``k``."""
    axes = [torch.arange(size, device=device, dtype=dtype) for size in shape]
    return torch.stack(torch.meshgrid(axes, indexing="ij"))


def _sampling_grid(ddf: Tensor, shape: list[int]) -> Tensor:
    """Positions ``(B, *spatial, n)`` in [-1, 1], last axis first, of displaced voxels about an image's center."""
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


def _sample(image: Tensor, ddf: Tensor, mode: str, padding: str) -> Tensor:
    return sample(image, _sampling_grid(ddf, list(image.shape[2:])), mode, padding)


def warp(image: Tensor, ddf: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """Resample an image through a dense displacement field: ``warped(x) = image(x + ddf(x))``.

    Positions are computed in float32 (float64 for a float64 field) whatever the autocast state. Differentiable in both
    arguments, scriptable, traceable and exportable to ONNX.

    Args:
        image: ``(B, C, *spatial)``, 2-D or 3-D.
        ddf: ``(B, n, *spatial)`` displacement in voxels, channel ``k`` along spatial axis ``k``.
        mode: "bilinear" (trilinear in 3-D) or "nearest".
        padding: outside the image, "border" continues it, "zeros" gives zero.

    Returns:
        ``(B, C, *spatial)``, float32 (float64 if an argument is).

    Raises:
        ValueError: if mode or padding is unknown, or shapes do not match.
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
    """Resample the center of an image, linearly, through a smaller displacement field; errors as of ``warp``.

    The image ``(B, C, *spatial)`` continues from its border. The field is ``(B, n, *inner)`` voxels; each axis equals
    the image's or is smaller by an even number. The result is ``(B, C, *inner)``, float32 (float64 if an argument is).
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
    if torch.jit.is_scripting():  # a script cannot disable autocast for an unknown device
        return _sample(image.to(dtype), ddf.to(dtype), mode, padding)
    with torch.autocast(device_type=image.device.type, enabled=False):
        return _sample(image.to(dtype), ddf.to(dtype), mode, padding)


def sample(image: Tensor, positions: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """Sample an image as ``torch.nn.functional.grid_sample`` with ``align_corners=True`` does.

    PyTorch distributes the volumes of a batch among a CPU's threads, so that a single volume is sampled by one thread.
    Here the positions of a single volume are split into a batch, which gives the same values. For an image ``(B, C,
    *spatial)``, positions are ``(B, *shape, n)`` in [-1, 1], the array's last axis first, and the result is ``(B, C,
    *shape)``.
    """
    if torch.jit.is_scripting():  # a script compiles nothing of what follows
        return F.grid_sample(image, positions, mode=mode, padding_mode=padding, align_corners=True)
    parts = _parts(image, positions)
    if parts == 1:
        return F.grid_sample(image, positions, mode=mode, padding_mode=padding, align_corners=True)
    split = positions.reshape(parts, 1, 1, -1, 3)
    copies = image.expand(parts, -1, -1, -1, -1)  # views
    sampled = F.grid_sample(copies, split, mode=mode, padding_mode=padding, align_corners=True)
    return sampled.transpose(0, 1).reshape(1, image.shape[1], *positions.shape[1:-1])


def _parts(image: Tensor, positions: Tensor) -> int:
    """Number of equal parts into which the positions of a single volume are split."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # a graph must not depend on the number of threads
        return 1
    # The gradient of the image would take one volume per part.
    needs_gradient = image.requires_grad and torch.is_grad_enabled()
    if image.device.type != "cpu" or image.dim() != 5 or image.shape[0] != 1 or needs_gradient:
        return 1
    threads, count = torch.get_num_threads(), positions[..., 0].numel()
    usable = [parts for parts in range(1, 4 * threads + 1) if count % parts == 0]
    return max(usable, key=lambda parts: (parts / math.ceil(parts / threads), -parts))
