# SPDX-License-Identifier: Apache-2.0
"""Linear or nearest values of an image at a list of places, by every thread of a CPU."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(image: Tensor, positions: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """``torch.nn.functional.grid_sample`` between the centers of the outermost voxels.

    PyTorch gives a CPU's threads whole volumes of a batch, so that a single volume is sampled by one of them. Here its
    places are shared out as if they belonged to several: the same values, in the time of one thread divided by how many
    there are.

    Args:
        image: ``(B, C, *spatial)``, 2-D or 3-D.
        positions: ``(B, *shape, n)`` in [-1, 1], the array's last axis first.
        mode: "bilinear" (trilinear in 3-D) or "nearest".
        padding: "border" or "zeros".

    Returns:
        ``(B, C, *shape)``.
    """
    if torch.jit.is_scripting():
        return F.grid_sample(image, positions, mode=mode, padding_mode=padding, align_corners=True)
    parts = _parts(image, positions)
    if parts == 1:
        return F.grid_sample(image, positions, mode=mode, padding_mode=padding, align_corners=True)
    shared = positions.reshape(parts, 1, 1, -1, 3)
    # A view: the image is not copied.
    sampled = F.grid_sample(
        image.expand(parts, -1, -1, -1, -1), shared, mode=mode, padding_mode=padding, align_corners=True
    )
    return sampled.transpose(0, 1).reshape(1, image.shape[1], *positions.shape[1:-1])


def _parts(image: Tensor, positions: Tensor) -> int:
    """Into how many equal parts the places of a single volume are best divided."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # a graph does not ask how many threads there are
        return 1
    # An image's own derivative would be made of as many volumes as there are parts.
    derived = image.requires_grad and torch.is_grad_enabled()
    if image.device.type != "cpu" or image.dim() != 5 or image.shape[0] != 1 or derived:
        return 1
    threads, places = torch.get_num_threads(), positions[..., 0].numel()
    usable = [parts for parts in range(1, 4 * threads + 1) if places % parts == 0]
    return max(usable, key=lambda parts: (parts / math.ceil(parts / threads), -parts))
