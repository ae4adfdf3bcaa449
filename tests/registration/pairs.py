# SPDX-License-Identifier: Apache-2.0
"""Pairs of images with known registrations."""

import torch
from torch import Tensor, nn

from regplugins.losses import LocalNCCLoss, MultiResolutionLoss, SquaredGradientLoss
from regplugins.spatial import identity_grid, warp

OBJECTIVE = MultiResolutionLoss(LocalNCCLoss(5), SquaredGradientLoss(), 0.1)


def textured(*shape: int) -> Tensor:
    """Noise at two scales, so that there is something to match everywhere."""
    torch.manual_seed(0)
    noise = torch.rand(1, 1, *shape)
    pool = nn.functional.avg_pool3d if len(shape) == 3 else nn.functional.avg_pool2d
    return pool(noise, 3, 1, 1) + 2 * pool(noise, 7, 1, 3)


def known_warp(*shape: int) -> Tensor:
    """A smooth field of at most 2 voxels that vanishes at the border."""
    grid = identity_grid(list(shape))
    sizes = torch.tensor(shape).view(-1, *[1] * len(shape)) - 1
    bump = torch.sin(torch.pi * grid / sizes).prod(dim=0)
    return 2 * torch.stack([bump * (-1) ** k for k in range(len(shape))])[None]


def warped_pair(*shape: int) -> tuple[Tensor, Tensor]:
    """A pair of images, and the field that takes the one to the other."""
    moving, truth = textured(*shape), known_warp(*shape)
    return torch.cat([moving, warp(moving, truth)], dim=1), truth


def with_a_hole(side: str, content: float, margin: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    """A pair of images, one of which holds something else somewhere, and the mask that hides it with a margin."""
    pair, _ = warped_pair(33, 36)
    pair[:, 0 if side == "moving" else 1, 12:20, 12:20] = content
    mask = torch.ones(1, 1, 33, 36)
    mask[..., 12 - margin : 20 + margin, 12 - margin : 20 + margin] = 0
    return pair, {f"{side}_mask": mask}
