# SPDX-License-Identifier: Apache-2.0
"""Rigid starts of a registration: centers, rotations by principal axes or of a regular grid, and shifts."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, product

import torch
from torch import Tensor

from regplugins.registration.intensity import otsu_threshold
from regplugins.registration.volume import Volume
from regplugins.spatial import AffineTransform, Grid

# Degrees; rigid registration by mutual information does not converge from farther away.
_STEP = 30.0
# Fraction of the smaller field of view by which the larger one must exceed it for shifted starts.
_MIN_SLACK = 1 / 2
# Distance of shifted starts, as a fraction of the smaller field of view, and about their largest number.
_SHIFT, _MAX_SHIFTS = 1 / 3, 1_000


def align_fields_of_view(fixed: Grid, moving: Grid) -> AffineTransform:
    """Translation from the center of the fixed field of view to that of the moving one, RAS+ mm."""
    return _translation(moving.center - fixed.center)


def align_centers_of_mass(fixed: Volume, moving: Volume) -> AffineTransform:
    """Translation from the fixed image's center of mass to that of the moving one, RAS+ mm."""
    return _translation(center_of_mass(moving) - center_of_mass(fixed))


def center_of_mass(volume: Volume) -> Tensor:
    """Center of mass of an image's weighted foreground, ``(n,)`` float64, RAS+ mm."""
    weights = _foreground_weights(volume)
    axes = range(weights.ndim)
    marginals = [weights.sum(dim=[k for k in axes if k != axis], dtype=torch.float64) for axis in axes]
    index = [marginal @ torch.arange(len(marginal), dtype=torch.float64) / marginal.sum() for marginal in marginals]
    return volume.grid.index_to_world(torch.stack(index))


def weighted_foreground(volume: Volume) -> tuple[Tensor, Tensor]:
    """Points ``(number, n)``, RAS+ mm, and weights of an image's foreground voxels, float64; its mask is respected.

    Foreground lies above Otsu's threshold: in MR, and in CT, where air has -1000, that is the patient. A weight is the
    intensity above the mean of the background.
    """
    weights = _foreground_weights(volume)
    index = weights.nonzero()
    return volume.grid.index_to_world(index.to(torch.float64)), weights[tuple(index.T)].to(torch.float64)


def _foreground_weights(volume: Volume) -> Tensor:
    """Weights ``(*shape)`` float32, zero in the background and outside the mask."""
    threshold = otsu_threshold(volume.masked_values)
    background = volume.masked_values[volume.masked_values <= threshold].mean()
    weights = (volume.values - background).masked_fill_(volume.values <= threshold, 0)
    return weights if volume.mask is None else weights.masked_fill_(~volume.mask, 0)


def principal_axes(volume: Volume) -> Tensor:
    """Axes of the ellipsoid of inertia of an image's foreground, weighted as in ``center_of_mass``.

    They are ``(n, n)`` float64, unit vectors as columns, RAS+, the longest axis first, of positive determinant.
    """
    points, weights = weighted_foreground(volume)
    offsets = points - weights @ points / weights.sum()
    _, axes = torch.linalg.eigh((offsets * weights[:, None]).T @ offsets)
    axes = axes.flip(1)
    axes[:, -1] *= torch.linalg.det(axes).sign()
    return axes


def rotated_poses(fixed: Volume, moving: Volume) -> Tensor:
    """Rigid transforms that align the centers of mass, with rotations 30 degrees apart and by principal axes.

    Principal axes have no sign: they give four proper rotations in 3-D and two in 2-D (Islam et al. 2021 take one).
    ``(number, n + 1, n + 1)``, from the fixed to the moving world, RAS+ mm; 929 in 3-D, 15 in 2-D.
    """
    a, b = principal_axes(fixed), principal_axes(moving)
    signs = torch.tensor([s for s in product((1.0, -1.0), repeat=len(a)) if math.prod(s) > 0], dtype=torch.float64)
    rotations = torch.cat([_rotations(len(a)), b @ torch.diag_embed(signs) @ a.T])
    return rotations_about(rotations, center_of_mass(fixed), center_of_mass(moving))


def shifted_poses(fixed: Volume, moving: Volume) -> Tensor:
    """Translations that lay the smaller field of view everywhere into the larger one, where that is much larger.

    Along each axis where one is 1.5 times the other, positions are a third of the smaller one apart; farther, if it is
    thin or there would be more than a thousand. Along the others the fields of view or the centers of mass are
    aligned. Masks limit the fields of view. ``(number, n + 1, n + 1)``, from the fixed to the moving world, RAS+ mm;
    empty if there is no such axis.
    """
    views = [_field_of_view(volume) for volume in (fixed, moving)]
    extents = torch.stack([torch.tensor(view.shape) * view.spacing for view in views])
    small, slack = extents.amin(dim=0), extents[0] - extents[1]
    is_partial = slack.abs() > _MIN_SLACK * small
    if not is_partial.any():
        return torch.empty(0, len(small) + 1, len(small) + 1, dtype=torch.float64)
    steps = (_SHIFT * small).clamp(min=max(view.spacing.max().item() for view in views))
    counts = torch.where(is_partial, (slack.abs() / steps).ceil() + 1, 1.0)
    crowding = max(1.0, counts.prod().item() / _MAX_SHIFTS) ** (1 / int(is_partial.sum()))
    ticks = [
        (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * length / max(1, count - 1)
        for count, length in zip((counts / crowding).ceil().long().tolist(), slack.abs(), strict=True)
    ]
    # Along the axes of whichever image is longer.
    directions = [view.affine[:-1, :-1] / view.spacing for view in views]
    axes = torch.where(slack > 0, directions[0], directions[1])
    by_view = views[1].center - views[0].center
    between = torch.linalg.solve(axes, center_of_mass(moving) - center_of_mass(fixed) - by_view)
    by_mass = by_view + axes @ between.masked_fill(is_partial, 0.0)
    offsets = torch.cartesian_prod(*ticks) @ axes.mT
    shifts = torch.cat([by_view + offsets, by_mass + offsets]).unique(dim=0)
    identities = torch.eye(len(small), dtype=torch.float64).expand(len(shifts), -1, -1)
    return rotations_about(identities, torch.zeros_like(by_view), shifts)


def _field_of_view(volume: Volume) -> Grid:
    """Grid of the voxels that count, its axes reordered and flipped to the nearest RAS+."""
    if volume.mask is None:
        return volume.grid.canonical()
    low, high = volume.mask.nonzero().aminmax(dim=0)
    affine = volume.grid.affine.clone()
    affine[:-1, -1] = volume.grid.index_to_world(low.to(affine))
    return Grid(tuple((high - low + 1).tolist()), affine).canonical()


def rotations_about(rotations: Tensor, origin: Tensor, target: Tensor) -> Tensor:
    """Rigid transforms ``(B, n + 1, n + 1)`` with rotations ``(B, n, n)`` that map ``origin`` to ``target``, mm.

    ``origin`` is ``(n,)``, ``target`` ``(n,)`` or ``(B, n)``.
    """
    n = rotations.shape[1]
    matrices = torch.eye(n + 1, dtype=torch.float64).repeat(len(rotations), 1, 1)
    matrices[:, :n, :n] = rotations
    matrices[:, :n, n] = target - rotations @ origin
    return matrices


def _rotations(n: int) -> Tensor:
    """Rotation matrices ``(number, n, n)`` with rotation vectors on a regular grid within a ball."""
    ticks = torch.arange(-180.0, 180.1, _STEP, dtype=torch.float64)
    parameters = n * (n - 1) // 2
    vectors = torch.cartesian_prod(*[ticks] * parameters).view(-1, parameters)
    angles = torch.deg2rad(vectors[vectors.norm(dim=1) <= 180])
    return torch.matrix_exp(torch.tensordot(angles, rotation_generators(n), dims=1))


def motions_about(
    kind: str, parameters: Tensor, center: Tensor, radius: float
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Rigid or affine motions about a center, and their derivative in closed form.

    Args:
        kind: "rigid": rotations are Cayley's ``(1 - S/2)^-1 (1 + S/2)`` of skew-symmetric matrices S; or "affine".
        parameters: ``(B, k)`` float64, mm: of the linear part, then of the translation.
        center: ``(n,)``, mm.
        radius: distance from the center, mm, at which a linear parameter moves points by as much as a translation.

    Returns:
        Matrices ``(B, n + 1, n + 1)``, and the function from gradients by them to those by the parameters, ``(B, k)``.
    """
    n = len(center)
    # Cayley's map, since its derivative is shorter than that of the exponential.
    basis = (rotation_generators(n) if kind == "rigid" else torch.eye(n * n).view(-1, n, n)).to(parameters) / radius
    steps, shift = torch.tensordot(parameters[:, :-n], basis, dims=1), parameters[:, -n:]
    identity = torch.eye(n).to(parameters)
    linear = torch.linalg.solve(identity - steps / 2, identity + steps / 2) if kind == "rigid" else identity + steps
    matrices = torch.eye(n + 1).to(parameters).repeat(len(parameters), 1, 1)
    matrices[:, :n, :n] = linear
    matrices[:, :n, n] = center + shift - linear @ center

    def derivative(gradients: Tensor) -> Tensor:
        by_shift = gradients[:, :n, n]
        by_steps = gradients[:, :n, :n] - by_shift[:, :, None] * center
        if kind == "rigid":
            by_steps = torch.linalg.solve((identity - steps / 2).mT, by_steps @ (identity + linear).mT) / 2
        return torch.cat([torch.tensordot(by_steps, basis, dims=([1, 2], [1, 2])), by_shift], dim=1)

    return matrices, derivative


def rotation_generators(n: int) -> Tensor:
    """Basis ``(n (n - 1) / 2, n, n)`` float64 of the skew-symmetric matrices, a plane of two axes each."""
    generators = torch.zeros(n * (n - 1) // 2, n, n, dtype=torch.float64)
    for generator, (i, j) in zip(generators, combinations(range(n), 2), strict=True):
        generator[i, j], generator[j, i] = -1.0, 1.0
    return generators


def _translation(shift: Tensor) -> AffineTransform:
    identity = torch.eye(len(shift), dtype=torch.float64)
    return AffineTransform(rotations_about(identity[None], torch.zeros_like(shift), shift)[0])
