# SPDX-License-Identifier: Apache-2.0
"""Images and fields at lower resolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def downsample(image: Tensor) -> Tensor:
    """Average over 3 voxels an axis, every second voxel kept: voxel ``i`` of the result lies on voxel ``2 i``, as max
    pooling and ``upsample_ddf`` have it.

    Args:
        image: ``(B, C, *spatial)``, 2-D or 3-D.

    Returns:
        ``(B, C, *ceil(spatial / 2))``.
    """
    pool = F.avg_pool3d if image.dim() == 5 else F.avg_pool2d
    return pool(image, kernel_size=3, stride=2, padding=1, count_include_pad=False)
