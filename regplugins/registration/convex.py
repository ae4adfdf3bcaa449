# SPDX-License-Identifier: Apache-2.0
"""A coarse start by looking at all displacements: coupled convex optimization."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from regplugins.checks import positive
from regplugins.losses import MIND
from regplugins.registration.image_pair import ImagePair
from regplugins.registration.levels import level_halvings, min_spacing, resample_ddf
from regplugins.registration.reprs import ReprMixin

# How strongly the smoothed field attracts that of least cost, from one round to the next: as a share of the spread of
# costs, for a distance that is all the reach.
_ATTRACTION = (0.05, 0.15, 0.5, 1.5, 5.0, 15.0)
# Of displacements that cost the same, the shortest is taken: nothing is known there, or nothing is to be seen.
_TIE = 1e-4
# Costs that are kept at a time: 2 GiB; and that are changed at a time: 64 MiB.
_MAX_COSTS = 2**29
_COSTS_AT_A_TIME = 2**24


class ConvexInitializer(ReprMixin):
    """The displacement, of all up to some reach, that brings like descriptors together, and its neighbors along.

    Costs of all displacements are computed once for every node of a coarse grid; then the displacement of least cost
    plus its squared distance from the smoothed field, and that smoothed field, are sought in turn, the distance
    counting more each time. (Heinrich et al., *Non-parametric discrete registration with convex optimisation*, WBIR
    2014; the start of ConvexAdam, Siebert et al., IEEE TMI 2024.)

    Args:
        reach: largest displacement along an axis, mm.
        image_spacing: of the images that are looked at, mm, rounded to that of the pair, or twice, four times, ...
            that; displacements are whole voxels of these, nodes are two of them apart.
        spacing: of the pair's grid, mm; of several, one an axis, the smallest counts; None: automatic, lengths in mm
            are those on a grid of 2 mm and scale with it.
        descriptor: of images ``(B, 1, *spatial)``, ``(B, C, *spatial)``; default: MIND-SSC.

    Raises:
        ValueError: a reach or a spacing that is not positive.
    """

    def __init__(
        self,
        reach: float = 24.0,
        image_spacing: float = 4.0,
        spacing: float | Sequence[float] | None = 1.0,
        descriptor: torch.nn.Module | None = None,
    ) -> None:
        self.reach = positive("reach", reach)
        self.image_spacing = positive("image_spacing", image_spacing)
        self.spacing = spacing
        ((self._halvings, _),) = level_halvings([(image_spacing, 1)], spacing)
        self.descriptor = descriptor or MIND()

    @torch.no_grad()
    def __call__(self, image_pair: ImagePair) -> Tensor:
        """
        Args:
            image_pair: what to register.

        Returns:
            ``(B, n, *spatial)`` displacement in voxels.

        Raises:
            ValueError: there are too many displacements to look at, of images too thin to be halved so often.
        """
        image_pairs = image_pair.pyramid(self._halvings)
        level = len(image_pairs) - 1
        radius = max(1, round(self.reach / min_spacing(self.spacing) / 2**level))
        shape = image_pairs[level].fixed.shape[2:]
        costs = (2 * radius + 1) ** len(shape) * math.prod((size + 1) // 2 for size in shape)
        if costs > _MAX_COSTS:
            raise ValueError(
                f"displacements of up to {radius} voxels along each axis of {tuple(shape)} would take "
                f"{4 * costs / 2**30:.1f} GiB; choose a smaller reach"
            )
        fields = [self._best(image_pairs[level].one(sample), radius) for sample in range(len(image_pair.fixed))]
        # Nodes lie on every second voxel, displacements are voxels of the level.
        return resample_ddf(torch.cat(fields) / 2, level + 1, 0, image_pair.fixed.shape[2:])

    def _best(self, image_pair: ImagePair, radius: int) -> Tensor:
        """``(1, n, *nodes)`` in voxels of the scene, which holds one pair."""
        n = image_pair.fixed.dim() - 2
        moving, fixed = (_blurred(self.descriptor(image)) for image in (image_pair.moving, image_pair.fixed))
        displacements = torch.tensor(list(itertools.product(range(-radius, radius + 1), repeat=n)), device=fixed.device)
        costs = _costs(moving, fixed, displacements, radius)
        if image_pair.moving_mask is not None or image_pair.fixed_mask is not None:
            ones = torch.ones_like(image_pair.fixed)
            moving_mask, fixed_mask = (
                ones if m is None else m for m in (image_pair.moving_mask, image_pair.fixed_mask)
            )
            _mask(costs, moving_mask, fixed_mask, displacements, radius)
        nodes = [(size + 1) // 2 for size in image_pair.fixed.shape[2:]]
        candidates = displacements.to(costs)
        unit = costs.std().clamp(min=1e-12) / radius**2
        field = candidates.new_zeros(1, n, *nodes)
        for attraction in (_TIE, *_ATTRACTION):
            best = _cheapest(costs, candidates, field.flatten(2)[0], attraction * unit)
            field = _blurred(_blurred(candidates[best].T.view(1, n, *nodes)))
        return field


def _blurred(image: Tensor) -> Tensor:
    """Mean over three voxels an axis, as far as there are any."""
    pool = F.avg_pool3d if image.dim() == 5 else F.avg_pool2d
    return pool(image, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def _nodes(image: Tensor) -> Tensor:
    """Every second voxel of ``(1, C, *spatial)``, as ``(C, nodes)``."""
    every_second: list[int | slice] = [slice(None, None, 2)] * (image.dim() - 2)
    return image[(0, slice(None), *every_second)].flatten(1)


def _shifted(image: Tensor, displacements: Tensor, radius: int) -> Iterator[Tensor]:
    """For each displacement, the image's values there, at the nodes; beyond the border it goes on."""
    n = image.dim() - 2
    padded = F.pad(image, [radius] * (2 * n), mode="replicate")
    for displacement in displacements.tolist():
        window = padded
        for axis, (way, size) in enumerate(zip(displacement, image.shape[2:], strict=True), start=2):
            window = window.narrow(axis, radius + way, size)
        yield _nodes(window)


def _costs(moving: Tensor, fixed: Tensor, displacements: Tensor, radius: int) -> Tensor:
    """``(displacements, nodes)``: mean squared difference of descriptors."""
    here = _nodes(fixed)
    costs = here.new_empty(len(displacements), here.shape[1])
    for row, there in zip(costs, _shifted(moving, displacements, radius), strict=True):
        torch.mean((there - here).square_(), dim=0, out=row)
    return costs


def _mask(costs: Tensor, moving_mask: Tensor, fixed_mask: Tensor, displacements: Tensor, radius: int) -> None:
    """Where nothing is known of a displacement, let it cost what the others cost at that node."""
    here = _nodes(fixed_mask)[0]
    total, known = (torch.zeros_like(here) for _ in range(2))
    for row, there in zip(costs, _shifted(moving_mask, displacements, radius), strict=True):
        counts = there[0] * here
        known += counts
        total.addcmul_(counts, row)
    expected = total / known.clamp(min=1e-6)
    for row, there in zip(costs, _shifted(moving_mask, displacements, radius), strict=True):
        torch.lerp(expected, row, there[0] * here, out=row)


def _cheapest(costs: Tensor, candidates: Tensor, field: Tensor, weight: float | Tensor) -> Tensor:
    """``(nodes,)``: which displacement costs least, with its squared distance from the field ``(n, nodes)``."""
    squares = candidates.square().sum(dim=1, keepdim=True)
    size = max(1, _COSTS_AT_A_TIME // len(candidates))
    # |d - s|² without |s|², which is the same for all displacements d.
    return torch.cat(
        [
            (weight * (squares - 2 * candidates @ near)).add_(part).argmin(dim=0)
            for part, near in zip(costs.split(size, dim=1), field.split(size, dim=1), strict=True)
        ]
    )
