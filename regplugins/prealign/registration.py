# SPDX-License-Identifier: Apache-2.0
"""Rigid and affine registration by mutual information, coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from regplugins.prealign.centres import centre_of_mass
from regplugins.prealign.mutual_information import MutualInformation
from regplugins.prealign.volume import Volume
from regplugins.spatial import AffineTransform, Grid

# Voxels at each resolution: a head at about 8, 4 and 2 mm.
_SIZES = {2: (64**2, 128**2, 256**2), 3: (32**3, 64**3, 128**3)}
_SAMPLES = 30_000
# More would leave too few samples in each where, as in CT, most of an image has nearly one value.
_BINS = 24
_ITERATIONS = 60
# In voxels: the first step, and the one with which a resolution is done.
_FIRST_STEP, _LAST_STEP = 1.0, 0.01


def register(
    kind: str, fixed: Volume, moving: Volume, starts: Sequence[AffineTransform], seed: int = 0
) -> AffineTransform:
    """Maximise the mutual information of two images over rigid or affine transforms.

    The coarsest resolution is registered rigidly from every start, the best result is refined at the finer ones. Best
    is the largest product of mutual information and overlap: images that share no more than a corner may agree there.

    Args:
        kind: "rigid" or "affine".
        fixed: image whose world the transform maps from.
        moving: image whose world it maps to.
        starts: from the fixed to the moving world; rigid ones, or the result will be none.
        seed: of the choice of samples; the same seed gives the same result to the last bit.

    Returns:
        From the fixed to the moving world, RAS+ mm.

    Raises:
        ValueError: the images, or the parts of them that their masks leave, share nothing from any start.
    """
    # A small image is the same volume at several sizes.
    levels = list(dict.fromkeys((fixed.shrunk(size), moving.shrunk(size)) for size in _SIZES[fixed.grid.ndim]))
    centre = centre_of_mass(fixed)
    score, transform = max(
        (_optimise("rigid", *levels[0], start, centre, seed) for start in _distinct(starts, levels[0][0].grid)),
        key=lambda result: result[0],
    )
    for level in levels[1:] if kind == "rigid" else levels:
        score, transform = _optimise(kind, *level, transform, centre, seed)
    if score == 0:
        what = "what they share (where their masks are set) is empty or constant"
        raise ValueError(f"the fixed and the moving image cannot be registered: {what}")
    return transform


def _distinct(starts: Sequence[AffineTransform], grid: Grid) -> list[AffineTransform]:
    """The starts without those that differ from an earlier one by less than a voxel in all corners of the grid."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, size], dtype=torch.float64) for size in grid.shape])
    corners = grid.index_to_world(corners)
    kept: list[AffineTransform] = []
    for start in starts:
        if all((start(corners) - other(corners)).norm(dim=-1).max() > grid.spacing.min() for other in kept):
            kept.append(start)
    return kept


def _optimise(
    kind: str, fixed: Volume, moving: Volume, start: AffineTransform, centre: Tensor, seed: int
) -> tuple[float, AffineTransform]:
    """Register at one resolution by the method of Broyden, Fletcher, Goldfarb and Shanno.

    A head is nearly round, so that a turn changes little compared with a shift: gradient descent stops in that valley.

    Returns:
        Mutual information times the number of points that lie in both images (0: it cannot be had), and the transform,
        which is never worse than the start.
    """
    similarity = MutualInformation(fixed, moving, _SAMPLES, _BINS, seed)
    voxel = fixed.grid.spacing.min().item()
    # In these parameters a step of 1 moves the image by about 1 mm, whatever it changes.
    radius = (similarity.points - centre).square().sum(dim=-1).mean().sqrt().item()
    change, size = _PARAMETERS[kind]
    parameters = torch.zeros(size(fixed.grid.ndim), dtype=torch.float64, requires_grad=True)
    ...
