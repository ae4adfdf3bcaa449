# SPDX-License-Identifier: Apache-2.0
"""Rigid and affine registration by mutual information, coarse to fine."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from regplugins.registration.bfgs import minimize_bfgs
from regplugins.registration.mattes_metric import MutualInformation
from regplugins.registration.poses import center_of_mass, motions_about, rotated_poses, shifted_poses
from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform, Grid

logger = logging.getLogger(__name__)

# Voxels at each resolution: a head at about 8, 4 and 2 mm.
_SIZES = {2: (64**2, 128**2, 256**2), 3: (32**3, 64**3, 128**3)}
# At the coarsest and at the finer resolutions. Half as many take a third less time and suit most heads, but pairs of
# different people then end at wrong optima.
_COARSE_SAMPLES, _SAMPLES = 10_000, 30_000
_BINS = 32
# Of the rigid refinement, at the finer resolutions. On validation heads in CT and MR the optimum near the truth lies
# 1.4 mm from it with 12 bins and 1.8 mm with 32; half as many samples leave 0.06 mm more, twice as many no less. The
# global search needs 32 bins.
_REFINEMENT_SAMPLES, _REFINEMENT_BINS = 60_000, 12
_ITERATIONS = 60
# A start is done when a step gains less than this fraction of the first, which is a voxel long. Coarse results are
# refined anyway, except for those that ``refine_rigid`` compares.
_COARSE_TOLERANCE, _TOLERANCE = 1e-3, 1e-4
# All starts are optimized just far enough to be compared, and this many of the best further.
_START_SAMPLES, _START_TOLERANCE, _KEPT_STARTS = 4_000, 1e-2, 3
# Fraction of the start's overlap that must remain: images that overlap at a corner may agree there by chance.
_MIN_OVERLAP_RATIO = 0.5
# Samples that rank rotated starts, at first and then, and number of the best that are ranked again.
_SCREENING_SAMPLES, _SCREENED = (1_000, 4_000), 150
# Number of rotated starts that are optimized, and smallest angle between them in degrees. Before they are, the right
# one is rarely the first: among five it is missing for half of noisy MR heads of which a third is out of view.
_ROTATED_STARTS, _MIN_ANGLE = 16, 25.0
# Number of shifted starts that are optimized, smallest distance between them in voxels, and smallest fraction of the
# points that must overlap: fewer agree by chance.
_SHIFTED_STARTS, _MIN_SHIFT, _MIN_SHIFTED_OVERLAP = 8, 3.0, 0.05
# Divides the score of rotated and shifted starts, since most patients lie in similar positions.
_SEARCH_PENALTY = 1.1
_PARAMETERS: dict[str, Callable[[int], int]] = {"rigid": lambda n: n * (n + 1) // 2, "affine": lambda n: n * (n + 1)}


def maximize_mutual_information(
    kind: str, fixed: Volume, moving: Volume, starts: Sequence[AffineTransform], seed: int = 0
) -> AffineTransform:
    """Maximize the mutual information of two images over rigid or affine transforms.

    At the coarsest resolution a rigid transform is optimized roughly from every start, from the best of many rotated
    poses, and from the best places of a partial field of view. The best results are optimized further, as are given
    starts with too little overlap. The result with the largest product of mutual information and overlap is refined at
    all resolutions.

    Args:
        kind: "rigid" or "affine".
        fixed: fixed image.
        moving: moving image.
        starts: from the fixed to the moving world; must be rigid for a rigid result.
        seed: of the samples; results are bitwise reproducible for the same number of threads.

    Returns:
        From the fixed to the moving world, RAS+ mm.

    Raises:
        ValueError: if the images, within their masks, have no common information from any start.
    """
    levels = _levels(fixed, moving)
    center = center_of_mass(levels[0][0])
    logger.info("aligning: searching at %.1f mm", levels[0][0].grid.spacing.max())
    given = _distinct(starts, levels[0][0].grid)
    transforms = [*given, *_best_rotated_poses(*levels[0], seed), *_best_shifted_poses(*levels[0], seed)]
    penalties = torch.ones(len(transforms), dtype=torch.float64)
    penalties[len(given) :] = _SEARCH_PENALTY
    rough = MutualInformation(*levels[0], _START_SAMPLES, _BINS, seed)
    scores, transforms = _optimize("rigid", rough, transforms, center, _START_TOLERANCE)
    best = (scores / penalties).argsort(descending=True, stable=True)[:_KEPT_STARTS].tolist()
    kept = list(dict.fromkeys([*best, *(index for index in range(len(given)) if not scores[index])]))
    coarse = MutualInformation(*levels[0], _COARSE_SAMPLES, _BINS, seed)
    scores, transforms = _optimize("rigid", coarse, [transforms[index] for index in kept], center, _COARSE_TOLERANCE)
    if not scores.any():
        what = "what they share (where their masks are set) is too little or constant"
        raise ValueError(f"the fixed and the moving image cannot be registered: {what}")
    transform = transforms[int((scores / penalties[kept]).argmax())]
    return _refined(kind, levels, transform, center, seed)


def refine_rigid(fixed: Volume, moving: Volume, starts: Sequence[AffineTransform], seed: int = 0) -> AffineTransform:
    """Maximize the mutual information of two images over rigid transforms, from given starts only.

    The result with the largest product of mutual information and overlap at the coarsest resolution is refined at the
    finer ones. Of equal results the first is kept. Arguments as of ``maximize_mutual_information``.

    Returns:
        From the fixed to the moving world, RAS+ mm; the first start if the images have no common information.
    """
    levels = _levels(fixed, moving)
    center = center_of_mass(levels[0][0])
    coarse = MutualInformation(*levels[0], _SAMPLES, _REFINEMENT_BINS, seed)
    scores, transforms = _optimize("rigid", coarse, starts, center, _TOLERANCE)
    return _refined(
        "rigid", levels[1:], transforms[int(scores.argmax())], center, seed, _REFINEMENT_SAMPLES, _REFINEMENT_BINS
    )


def _levels(fixed: Volume, moving: Volume) -> list[tuple[Volume, Volume]]:
    """Both images at each resolution, coarsest first, without repeats for small images."""
    return list(dict.fromkeys((fixed.downsampled(size), moving.downsampled(size)) for size in _SIZES[fixed.grid.ndim]))


def _refined(
    kind: str,
    levels: Sequence[tuple[Volume, Volume]],
    transform: AffineTransform,
    center: Tensor,
    seed: int,
    samples: int = _SAMPLES,
    bins: int = _BINS,
) -> AffineTransform:
    for level in levels:
        logger.info("aligning: refining at %.1f mm", level[0].grid.spacing.max())
        similarity = MutualInformation(*level, samples, bins, seed)
        tolerance = _TOLERANCE if level is levels[-1] else _COARSE_TOLERANCE
        _, (transform,) = _optimize(kind, similarity, [transform], center, tolerance)
    return transform


def _distinct(starts: Iterable[AffineTransform], grid: Grid, voxels: float = 1.0) -> list[AffineTransform]:
    """Remove starts that differ from an earlier one by less than some voxels at all corners of the grid."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, size], dtype=torch.float64) for size in grid.shape])
    corners = grid.index_to_world(corners)
    kept: list[AffineTransform] = []
    for start in starts:
        if all((start(corners) - other(corners)).norm(dim=-1).max() > voxels * grid.spacing.min() for other in kept):
            kept.append(start)
    return kept


def _best_shifted_poses(fixed: Volume, moving: Volume, seed: int) -> list[AffineTransform]:
    """Shifted poses of largest mutual information times overlap, none if neither field of view is partial."""
    poses = shifted_poses(fixed, moving)
    if not len(poses):
        return []
    similarity = MutualInformation(fixed, moving, _SCREENING_SAMPLES[-1], _BINS, seed)
    poses = _ranked(poses, similarity, _MIN_SHIFTED_OVERLAP * len(similarity.points))
    return _distinct(map(AffineTransform, poses), fixed.grid, _MIN_SHIFT)[:_SHIFTED_STARTS]


def _best_rotated_poses(fixed: Volume, moving: Volume, seed: int) -> list[AffineTransform]:
    """Rotated poses of largest mutual information times overlap, no two within ``_MIN_ANGLE``."""
    poses = rotated_poses(fixed, moving)
    for samples in _SCREENING_SAMPLES:
        poses = _ranked(poses, MutualInformation(fixed, moving, samples, _BINS, seed))[:_SCREENED]
    kept: list[AffineTransform] = []
    for matrix in poses:
        pose = AffineTransform(matrix)
        if all(_angle(pose, other) > _MIN_ANGLE for other in kept):
            kept.append(pose)
            if len(kept) == _ROTATED_STARTS:
                break
    return kept


def _ranked(poses: Tensor, similarity: MutualInformation, min_overlap: float = 0.0) -> Tensor:
    """Poses ``(number, n + 1, n + 1)`` with that many points in both images, that of the largest score first.

    The score is mutual information times overlap.
    """
    information, overlap = similarity.value(poses)
    order = (information * overlap).argsort(descending=True, stable=True)
    return poses[order[overlap[order] >= min_overlap]]


def _angle(a: AffineTransform, b: AffineTransform) -> float:
    """Degrees between two rigid transforms of the same handedness."""
    n = a.ndim
    cosine = (a.matrix[:n, :n].T @ b.matrix[:n, :n]).trace().item() - (n - 2)
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine / 2))))


def _optimize(
    kind: str, similarity: MutualInformation, starts: Sequence[AffineTransform], center: Tensor, tolerance: float
) -> tuple[Tensor, list[AffineTransform]]:
    """Register at one resolution from several starts, which are evaluated together.

    Returns:
        Mutual information times the number of points in both images, ``(starts,)``, and the transforms, none of them
        worse than its start.
    """
    radius = (similarity.points - center).square().sum(dim=-1).mean().sqrt().item()
    first = torch.stack([start.matrix for start in starts])
    overlaps = similarity.value(first)[1]

    def cost(values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        change, derivative = motions_about(kind, values * similarity.voxel, center, radius)
        information, overlap, gradient = similarity.gradient(first[rows] @ change)
        # Images that overlap at a corner may agree there by chance.
        lost = overlap <= _MIN_OVERLAP_RATIO * overlaps[rows]
        slopes = derivative(first[rows].mT @ gradient) * similarity.voxel
        return torch.where(lost, torch.inf, -information), -slopes

    origin = first.new_zeros(len(starts), _PARAMETERS[kind](len(center)))
    parameters = minimize_bfgs(cost, origin, _ITERATIONS, tolerance)
    last = first @ motions_about(kind, parameters * similarity.voxel, center, radius)[0]
    information, overlap = similarity.value(last)
    return information * overlap, [AffineTransform(matrix) for matrix in last]
