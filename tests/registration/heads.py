# SPDX-License-Identifier: Apache-2.0
"""Synthetic head defined at every point of the world, so that transformed images of it need no resampling."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from regplugins.registration import initial_transform
from regplugins.spatial import AffineTransform, Grid

# Intensities at world points (..., n).
Contrast = Callable[[Tensor], Tensor]
# Half axes of the head and its center in the world, mm.
_AXES = {2: (60.0, 72.0), 3: (58.0, 70.0, 52.0)}
_CENTER = (6.0, -9.0, 12.0)


@cache
def _blobs(ndim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centers (in half axes), widths and heights of the structures within the brain."""
    random = np.random.default_rng(5)
    centers = random.uniform(-0.7, 0.7, (30, ndim))
    return tuple(map(torch.from_numpy, (centers, random.uniform(0.08, 0.22, 30), random.choice([-1.0, 1.0], 30))))


def _tissue(points: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of world points (..., n) from the center, 1 at the skin, and texture of the brain, 0 to 1."""
    n = points.shape[-1]
    places = (points.to(torch.float32) - torch.tensor(_CENTER[:n])) / torch.tensor(_AXES[n])
    texture = torch.zeros(points.shape[:-1])
    for center, width, height in zip(*_blobs(n), strict=True):
        texture += height * torch.exp(-((places - center.float()) / width).square().sum(dim=-1) / 2)
    # A nose, a chin and the back of the head: a plain ellipsoid looks much the same after a turn.
    outline = torch.ones(points.shape[:-1])
    for direction, height in (((0.1, 1.0, -0.1), 0.15), ((-0.2, 0.7, -0.8), 0.2), ((0.6, -0.7, 0.5), 0.15)):
        away = places - torch.nn.functional.normalize(torch.tensor(direction[:n]), dim=0)
        outline += height * torch.exp(-(away / 0.4).square().sum(dim=-1) / 2)
    return places.norm(dim=-1) / outline, torch.sigmoid(2 * texture)


def _layers(radius: Tensor, brain: Tensor, bone: float, skin: float, air: float) -> Tensor:
    image = torch.full_like(radius, air)
    for outer, value in ((1.0, skin), (0.93, bone), (0.85, brain)):
        inside = torch.sigmoid((outer - radius) * 60)
        image = image + (value - image) * inside
    return image


def mr(points: Tensor) -> Tensor:
    """T1-like intensities at world points (..., n)."""
    radius, texture = _tissue(points)
    return _layers(radius, 300 + 500 * texture, bone=60, skin=900, air=5)


def ct(points: Tensor) -> Tensor:
    """Hounsfield units at world points (..., n): bone outshines the brain, in which contrasts are weak and inverted."""
    radius, texture = _tissue(points)
    return _layers(radius, 60 - 40 * texture, bone=1400, skin=50, air=-1000)


def t2(points: Tensor) -> Tensor:
    """T2-like intensities at world points (..., n): the brain's contrast inverted, and not in proportion."""
    radius, texture = _tissue(points)
    return _layers(radius, 900 - 700 * texture**2, bone=40, skin=500, air=5)


def head_points(ndim: int) -> Tensor:
    """World points (number, n), mm, all over the head."""
    cube = torch.cartesian_prod(*[torch.linspace(-1, 1, 9, dtype=torch.float64)] * ndim)
    inside = cube[cube.norm(dim=-1) <= 1]
    return inside * torch.tensor(_AXES[ndim], dtype=torch.float64) + torch.tensor(_CENTER[:ndim], dtype=torch.float64)


def motion(degrees: float, shift: tuple[float, ...], stretch: float = 0.0) -> Tensor:
    """Homogeneous matrix: a turn about the head's center and an oblique axis, then stretch and shear, then shift."""
    n = len(shift)
    axis = np.array([0.5, -0.3, 0.81]) if n == 3 else np.array([0.0, 0.0, 1.0])
    cross = np.cross(np.eye(3), axis / np.linalg.norm(axis))
    angle = math.radians(degrees)
    turn = (np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross)[:n, :n]
    change = np.eye(n) + stretch * np.array([[1.0, 0.4, -0.3], [-0.2, -0.8, 0.3], [0.1, 0.4, 0.7]])[:n, :n]
    center = np.array(_CENTER[:n])
    matrix = np.eye(n + 1)
    matrix[:n, :n] = change @ turn
    matrix[:n, n] = center + shift - matrix[:n, :n] @ center
    return torch.from_numpy(matrix)


def head(contrast: Contrast, grid: Grid, moved: Tensor | None = None) -> Tensor:
    """Image (1, *grid.shape) of the head where ``contrast`` puts it, or where ``moved`` takes it from there."""
    points = grid.coordinates()
    if moved is not None:
        back = torch.linalg.inv(moved)
        points = points @ back[:-1, :-1].T + back[:-1, -1]
    return contrast(points)[None]


def on_grids(fixed: Tensor, fixed_grid: Grid, moving: Tensor, moving_grid: Grid) -> tuple[MetaTensor, MetaTensor]:
    """Images with the affines of their grids."""
    return MetaTensor(fixed, affine=fixed_grid.affine), MetaTensor(moving, affine=moving_grid.affine)


def aligned(init: str, *images_and_grids: Any, **options: Any) -> AffineTransform:
    """Initial transform of images, each followed by its grid."""
    return initial_transform(init, *on_grids(*images_and_grids), **options)[1]
