# SPDX-License-Identifier: Apache-2.0
"""Initial field for large displacements, by coupled convex optimization."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from regplugins.checks import positive
from regplugins.losses import MIND
from regplugins.registration.image_pair import ImagePair, Strides, level_halvings, min_spacing, resample_ddf
from regplugins.registration.parametrization import ReprMixin
from regplugins.spatial import per_axis

# Weight of the squared distance from the smoothed field in each iteration, as a fraction of the standard deviation of
# the costs, for a distance of `reach`.
_COUPLING = (0.05, 0.15, 0.5, 1.5, 5.0, 15.0)
# Weight in the first iteration: of displacements with equal cost, the shortest is taken.
_TIE = 1e-4
# Costs in memory: 2 GiB. Costs in one chunk: 64 MiB.
_MAX_COSTS = 2**29
_CHUNK_COSTS = 2**24


class ConvexInitializer(ReprMixin):
    """Initial field that minimizes the difference of descriptors over all displacements up to a reach.

    The costs of all displacements are computed once at every node of a coarse grid. Then two steps alternate: each node
    takes the displacement that minimizes cost plus squared distance from the smoothed field, and the field is smoothed
    again. The weight of the distance grows. (Heinrich et al., *Non-parametric discrete registration with convex
    optimisation*, WBIR 2014; the first step of ConvexAdam, Siebert et al., IEEE TMI 2024.)

    Args:
        reach: largest displacement along an axis, mm; at most half of the image.
        image_spacing: of the compared images, mm, rounded to the pair's times a power of two. Displacements are whole
            voxels of these images, and nodes are two voxels apart.
        spacing: of the pair's grid, mm, one number or one per axis, of which the smallest is used. None: automatic;
            lengths in mm then refer to a grid of 2 mm and scale with it.
        descriptor: maps images ``(B, 1, *spatial)`` to ``(B, C, *spatial)``; default: MIND-SSC.

    Raises:
        ValueError: if ``reach`` or a spacing is not positive.
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
        """Displacements in voxels, ``(B, n, *spatial)``; ``ValueError`` if the costs would not fit into memory."""
        strides, images = list(image_pair.pyramid(self._halvings).items())[-1]
        shape = images.fixed.shape[2:]
        reach = self.reach / min_spacing(self.spacing)
        # Half of a thin stack that is not halved, not more slices than it has.
        radii = [max(1, min(round(reach / stride), size // 2)) for stride, size in zip(strides, shape, strict=True)]
        costs = math.prod(2 * radius + 1 for radius in radii) * math.prod((size + 1) // 2 for size in shape)
        if costs > _MAX_COSTS:
            raise ValueError(
                f"displacements of up to {max(radii)} voxels along each axis of {tuple(shape)} would take "
                f"{4 * costs / 2**30:.1f} GiB; choose a smaller reach"
            )
        fields = [self._best(images.sample(index), radii, strides) for index in range(len(image_pair.fixed))]
        # Nodes lie on every second voxel, displacements are voxels of the level.
        nodes = tuple(2 * stride for stride in strides)
        return resample_ddf(torch.cat(fields) / 2, nodes, (1,) * len(shape), image_pair.fixed.shape[2:])

    def _best(self, image_pair: ImagePair, radii: Sequence[int], strides: Strides) -> Tensor:
        """Displacements ``(1, n, *nodes)`` in voxels of one pair, of at most ``radii``."""
        n = image_pair.fixed.dim() - 2
        moving, fixed = (_blurred(self.descriptor(image)) for image in (image_pair.moving, image_pair.fixed))
        ranges = [range(-radius, radius + 1) for radius in radii]
        displacements = torch.tensor(list(itertools.product(*ranges)), device=fixed.device)
        costs = _costs(moving, fixed, displacements)
        if image_pair.moving_mask is not None or image_pair.fixed_mask is not None:
            ones = torch.ones_like(image_pair.fixed)
            moving_mask, fixed_mask = (
                ones if m is None else m for m in (image_pair.moving_mask, image_pair.fixed_mask)
            )
            _mask(costs, moving_mask, fixed_mask, displacements)
        nodes = [(size + 1) // 2 for size in image_pair.fixed.shape[2:]]
        voxel = costs.new_tensor(strides) / max(strides)
        candidates = displacements * voxel  # in one unit along all axes
        unit = costs.std().clamp(min=1e-12) / candidates.max() ** 2
        field = candidates.new_zeros(1, n, *nodes)
        for coupling in (_TIE, *_COUPLING):
            best = _least_cost(costs, candidates, field.flatten(2)[0], coupling * unit)
            field = _blurred(_blurred(candidates[best].T.view(1, n, *nodes)))
        return field / per_axis(voxel.tolist(), field)


def _blurred(image: Tensor) -> Tensor:
    """Mean over three voxels per axis, within the image; none along an axis of fewer."""
    pool = F.avg_pool3d if image.dim() == 5 else F.avg_pool2d
    kernel = [3 if size >= 3 else 1 for size in image.shape[2:]]
    return pool(image, kernel_size=kernel, stride=1, padding=[size // 2 for size in kernel], count_include_pad=False)


def _nodes(image: Tensor) -> Tensor:
    """Values ``(C, nodes)`` of ``(1, C, *spatial)`` at every second voxel."""
    every_second: list[int | slice] = [slice(None, None, 2)] * (image.dim() - 2)
    return image[(0, slice(None), *every_second)].flatten(1)


def _shifted(image: Tensor, displacements: Tensor) -> Iterator[Tensor]:
    """For each displacement, the shifted image's values at the nodes; the border is replicated."""
    radii = displacements.amax(dim=0).tolist()
    padded = F.pad(image, [radius for radius in reversed(radii) for _ in range(2)], mode="replicate")
    for displacement in displacements.tolist():
        window = padded
        for axis, (shift, radius) in enumerate(zip(displacement, radii, strict=True), start=2):
            window = window.narrow(axis, radius + shift, image.shape[axis])
        yield _nodes(window)


def _costs(moving: Tensor, fixed: Tensor, displacements: Tensor) -> Tensor:
    """Mean squared differences of descriptors, ``(displacements, nodes)``."""
    target = _nodes(fixed)
    costs = target.new_empty(len(displacements), target.shape[1])
    for row, values in zip(costs, _shifted(moving, displacements), strict=True):
        torch.mean((values - target).square_(), dim=0, out=row)
    return costs


def _mask(costs: Tensor, moving_mask: Tensor, fixed_mask: Tensor, displacements: Tensor) -> None:
    """Replace the cost of masked displacements by the mean of the others at that node, in place."""
    target = _nodes(fixed_mask)[0]
    total, weight = (torch.zeros_like(target) for _ in range(2))
    for row, values in zip(costs, _shifted(moving_mask, displacements), strict=True):
        product = values[0] * target
        weight += product
        total.addcmul_(product, row)
    expected = total / weight.clamp(min=1e-6)
    for row, values in zip(costs, _shifted(moving_mask, displacements), strict=True):
        torch.lerp(expected, row, values[0] * target, out=row)


def _least_cost(costs: Tensor, candidates: Tensor, field: Tensor, weight: float | Tensor) -> Tensor:
    """Index ``(nodes,)`` of the smallest cost plus weighted squared distance from the field ``(n, nodes)``."""
    squares = candidates.square().sum(dim=1, keepdim=True)
    size = max(1, _CHUNK_COSTS // len(candidates))
    # |d - s|² without |s|², which is the same for all displacements d.
    return torch.cat(
        [
            (weight * (squares - 2 * candidates @ near)).add_(part).argmin(dim=0)
            for part, near in zip(costs.split(size, dim=1), field.split(size, dim=1), strict=True)
        ]
    )
