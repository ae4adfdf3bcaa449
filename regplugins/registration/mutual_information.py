# SPDX-License-Identifier: Apache-2.0
"""Rigid and affine registration by mutual information, coarse to fine."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from regplugins.registration.centers import center_of_mass
from regplugins.registration.mattes_metric import MutualInformation
from regplugins.registration.poses import turned_poses
from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform, Grid

logger = logging.getLogger(__name__)

# Voxels at each resolution: a head at about 8, 4 and 2 mm.
_SIZES = {2: (64**2, 128**2, 256**2), 3: (32**3, 64**3, 128**3)}
# At the coarsest resolution, and at the finer ones. Half as many are faster by a third, and as good for most heads, but
# pairs of different people then end in wrong places.
_COARSE_SAMPLES, _SAMPLES = 10_000, 30_000
_BINS = 32
# Of the rigid refinement. On validation heads in CT and MR the optimum lies 1.4 mm from the truth with 12 bins
# and 1.8 mm with 32, with any number of samples. The search needs the finer ones.
_REFINEMENT_BINS = 12
_ITERATIONS = 60
# Of the gain of the first step, a voxel long: what is left when a resolution is done.
_TOLERANCE = 1e-3
# Of the overlap at the start: what has to remain. Where images share but a corner, they may agree there by chance.
_MIN_OVERLAP_RATIO = 0.5
# Of the turned poses: points to rank them by, how many are tried, degrees between these, and by how much the result of
# one must be better to be believed, since most patients lie much as others do.
_SCREENING_SAMPLES, _TURNED_STARTS, _MIN_ANGLE, _TURNED_PENALTY = 4_000, 5, 25.0, 1.1
_NUMBER: dict[str, Callable[[int], int]] = {"rigid": lambda n: n * (n + 1) // 2, "affine": lambda n: n * (n + 1)}


def maximize_mutual_information(
    kind: str, fixed: Volume, moving: Volume, starts: Sequence[AffineTransform], seed: int = 0
) -> AffineTransform:
    """Maximize the mutual information of two images over rigid or affine transforms.

    The coarsest resolution is registered rigidly from every start, and from the most promising of many turned poses;
    the result with the largest product of mutual information and overlap is refined at the finer ones.

    Args:
        kind: "rigid" or "affine".
        fixed: image whose world the transform maps from.
        moving: image whose world it maps to.
        starts: from the fixed to the moving world; rigid ones, or the result will be none.
        seed: of the choice of samples; the same seed gives the same result, with as many threads to the last bit.

    Returns:
        From the fixed to the moving world, RAS+ mm.

    Raises:
        ValueError: the images, or the parts of them that their masks leave, share nothing from any start.
    """
    levels = _levels(fixed, moving)
    center = center_of_mass(fixed)
    logger.info("aligning: searching at %.1f mm", levels[0][0].grid.spacing.max())
    coarse = MutualInformation(*levels[0], _COARSE_SAMPLES, _BINS, seed)
    results = [_optimize("rigid", coarse, start, center) for start in _distinct(starts, levels[0][0].grid)]
    if all(score == 0 for score, _ in results):
        what = "what they share (where their masks are set) is too little or constant"
        raise ValueError(f"the fixed and the moving image cannot be registered: {what}")
    for start in _promising(*levels[0], seed):
        score, transform = _optimize("rigid", coarse, start, center)
        results.append((score / _TURNED_PENALTY, transform))
    _, transform = max(results, key=lambda result: result[0])
    return _refined(kind, levels[1:] if kind == "rigid" else levels, transform, center, seed)


def refine_rigid(fixed: Volume, moving: Volume, starts: Sequence[AffineTransform], seed: int = 0) -> AffineTransform:
    """Maximize the mutual information of two images over rigid transforms near given ones, without a search.

    The coarsest resolution is registered from every start; the result with the largest product of mutual information
    and overlap is refined at the finer ones.

    Args:
        fixed: image whose world the transform maps from.
        moving: image whose world it maps to.
        starts: from the fixed to the moving world, the first preferred to its equals; rigid ones, or the result will be
            none.
        seed: of the choice of samples.

    Returns:
        From the fixed to the moving world, RAS+ mm; where the images share nothing, the first start.
    """
    levels = _levels(fixed, moving)
    center = center_of_mass(fixed)
    coarse = MutualInformation(*levels[0], _SAMPLES, _REFINEMENT_BINS, seed)
    _, transform = max((_optimize("rigid", coarse, start, center) for start in starts), key=lambda result: result[0])
    return _refined("rigid", levels[1:], transform, center, seed, _REFINEMENT_BINS)


def _levels(fixed: Volume, moving: Volume) -> list[tuple[Volume, Volume]]:
    """Both images at each resolution, coarsest first. A small image is the same volume at several sizes."""
    return list(dict.fromkeys((fixed.shrunk(size), moving.shrunk(size)) for size in _SIZES[fixed.grid.ndim]))


def _refined(
    kind: str,
    levels: Sequence[tuple[Volume, Volume]],
    transform: AffineTransform,
    center: Tensor,
    seed: int,
    bins: int = _BINS,
) -> AffineTransform:
    for level in levels:
        logger.info("aligning: refining at %.1f mm", level[0].grid.spacing.max())
        _, transform = _optimize(kind, MutualInformation(*level, _SAMPLES, bins, seed), transform, center)
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


def _promising(fixed: Volume, moving: Volume, seed: int) -> list[AffineTransform]:
    """The turned poses from which mutual information and overlap are largest, no two of them near each other."""
    similarity = MutualInformation(fixed, moving, _SCREENING_SAMPLES, _BINS, seed)
    ranked = []
    for pose in turned_poses(fixed, moving):
        information, overlap = similarity.value(pose.matrix)
        ranked.append((information * overlap, pose))
    ranked.sort(key=lambda candidate: -candidate[0])
    kept: list[AffineTransform] = []
    for _, pose in ranked:
        if len(kept) < _TURNED_STARTS and all(_angle(pose, other) > _MIN_ANGLE for other in kept):
            kept.append(pose)
    return kept


def _angle(a: AffineTransform, b: AffineTransform) -> float:
    """Degrees between two rigid transforms of the same handedness."""
    n = a.ndim
    cosine = (a.matrix[:n, :n].T @ b.matrix[:n, :n]).trace().item() - (n - 2)
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine / 2))))


def _optimize(
    kind: str, similarity: MutualInformation, start: AffineTransform, center: Tensor
) -> tuple[float, AffineTransform]:
    """Register at one resolution.

    Returns:
        Mutual information times the number of points that lie in both images (0: it cannot be had), and the transform,
        which is never worse than the start.
    """
    radius = (similarity.points - center).square().sum(dim=-1).mean().sqrt().item()

    def matrix_of(parameters: Tensor) -> Tensor:
        return start.matrix @ _change(kind, parameters * similarity.voxel, center, radius)

    def descent(values: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            parameters = torch.tensor(values, requires_grad=True)
            matrix = matrix_of(parameters)
        information, _, gradient = similarity.gradient(matrix.detach())
        (slope,) = torch.autograd.grad(matrix, parameters, gradient)
        return -information, -slope.numpy()

    before, overlap_before = similarity.value(start.matrix)
    origin = np.zeros(_NUMBER[kind](start.ndim))
    steepness = float(np.linalg.norm(descent(origin)[1]))
    if steepness == 0:  # There is nothing to see, or nothing to gain.
        return before * overlap_before, start
    # Without constraints SLSQP is the method of Broyden, Fletcher, Goldfarb and Shanno with a line search that only
    # goes back. SciPy's own BFGS asks for slopes that fit the values exactly, and ITK's are those of a smoother image:
    # it spends most of its time to find that out. Gradient descent stops in the valley along which a round head turns.
    # The first step is the slope itself, here a voxel.
    minimum = minimize(
        lambda values: tuple(part / steepness for part in descent(values)),
        origin,
        jac=True,
        method="SLSQP",
        options={"maxiter": _ITERATIONS, "ftol": _TOLERANCE},
    )
    found = AffineTransform(matrix_of(torch.from_numpy(minimum.x)))
    after, overlap_after = similarity.value(found.matrix)
    if after > before and overlap_after > _MIN_OVERLAP_RATIO * overlap_before:
        return after * overlap_after, found
    return before * overlap_before, start


def _change(kind: str, parameters: Tensor, center: Tensor, radius: float) -> Tensor:
    """Homogeneous matrix (n + 1, n + 1) that turns or deforms about the center, and shifts by the last n parameters.

    Dividing the others by the points' mean distance from the center gives a step in any parameter the same weight: the
    points move as far as the parameter does, mm.
    """
    n = len(center)
    linear, shift = parameters[:-n] / radius, parameters[-n:]
    if kind == "rigid":
        skew = torch.zeros(n, n, dtype=linear.dtype)
        skew[tuple(torch.triu_indices(n, n, 1))] = linear
        linear = torch.matrix_exp(skew - skew.T)
    else:
        linear = torch.eye(n, dtype=linear.dtype) + linear.view(n, n)
    last = torch.eye(n + 1, dtype=linear.dtype)[-1:]
    return torch.cat([torch.cat([linear, (center + shift - linear @ center)[:, None]], dim=1), last])
