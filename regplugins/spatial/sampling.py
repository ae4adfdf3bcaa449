# SPDX-License-Identifier: Apache-2.0
"""Multi-threaded ``grid_sample`` on a CPU."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(image: Tensor, positions: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """Sample an image as ``torch.nn.functional.grid_sample`` with ``align_corners=True`` does.

    PyTorch distributes the volumes of a batch among a CPU's threads, so that a single volume is sampled by one thread.
    Here the positions of a single volume are split into a batch, which gives the same values.

    Args:
        image: ``(B, C, *spatial)``, 2-D or 3-D.
        positions: ``(B, *shape, n)`` in [-1, 1], the array's last axis first.
        mode: "bilinear" (trilinear in 3-D) or "nearest".
        padding: "border" or "zeros".

    Returns:
        ``(B, C, *shape)``.
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
