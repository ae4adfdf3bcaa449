# SPDX-License-Identifier: Apache-2.0
"""Deformable registration of one pair by optimization, coarse to fine."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence

import torch
from monai.utils import ensure_tuple
from torch import Tensor, nn

from regplugins.checks import boolean, not_negative
from regplugins.registration.image_pair import MIN_SIZE, ImagePair, level_halvings, resample_ddf
from regplugins.registration.parametrization import CompositiveField, Cost, Parametrization, ReprMixin, minimize
from regplugins.spatial import compose_ddf, crop, invert_ddf, upsample_ddf

logger = logging.getLogger(__name__)

Initializer = Callable[[ImagePair], Tensor]
# By which another start must lower the cost more than the first, as a share of what that lowers it. Costs that differ
# less say nothing about the error.
_CLEAR_GAIN = 0.02


class DeformableRegistration(ReprMixin):
    """Deformable registration of one pair: minimize a training objective over its field at several resolutions.

    The field has a node at every ``stride`` voxels of a level's images, as its parametrization says, and is
    interpolated linearly. Each level's images are averaged from the next finer one. Only the field is passed from level
    to level.

    Args:
        objective: loss ``(fields, target) -> scalar`` with these argument names or ``*args``, as in training.
            ``PairLoss`` wraps a similarity.
        levels: image spacing in mm and largest iteration count of each level, coarsest first. Spacings are rounded to
            that of the pair times a power of two. An axis is halved only while it has at least 32 voxels (16 with a
            node at every voxel). Levels that round to the same spacing are merged and keep the largest iteration count.
        spacing: of the pair's grid, mm, one number or one per axis, of which the smallest is used. None: automatic;
            lengths in mm are then given for a 2 mm grid and scaled by the actual spacing.
        parametrization: of the field; default: ``CompositiveField()``.
        initializer: computes the initial field: ``AffineInitializer`` (rigid or affine) or ``ConvexInitializer`` (large
            displacements). Of several, the coarsest level is optimized from each, and the first is kept unless another
            lowers the cost by at least 2 % more.
        symmetric: warp both images to a midpoint, each by its own field, and return one field composed with the inverse
            of the other (Avants et al., Medical Image Analysis 2008). Swapped images give the inverse, except with an
            initial field, which warps the moving image only.
        tolerance: a level ends when ten iterations lower the cost by at most this fraction of its total decrease.

    Raises:
        ValueError: if ``levels`` is empty, not ordered coarse to fine, or has an iteration count below 1, a spacing is
            not positive, or ``tolerance`` is negative.
        TypeError: if ``objective`` has no argument ``fields``, ``symmetric`` is not a boolean, ``parametrization`` is
            not a ``Parametrization``, or an ``initializer`` is not callable.
    """

    def __init__(
        self,
        objective: nn.Module,
        levels: Sequence[tuple[float, int]],
        spacing: float | Sequence[float] | None = 1.0,
        parametrization: Parametrization | None = None,
        initializer: Initializer | Sequence[Initializer] | None = None,
        symmetric: bool = False,
        tolerance: float = 0.0,
    ) -> None:
        parameters = inspect.signature(getattr(objective, "forward", objective)).parameters
        # The error of a similarity in place of an objective would name neither.
        if "fields" not in parameters and not any(p.kind is p.VAR_POSITIONAL for p in parameters.values()):
            raise TypeError(f"objective must take (fields, target), as PairLoss does, got {objective!r}")
        self.objective = objective
        self.levels = levels
        self._halvings = level_halvings(levels, spacing)
        self.spacing = spacing
        self.parametrization = CompositiveField() if parametrization is None else parametrization
        if not isinstance(self.parametrization, Parametrization):
            raise TypeError(
                f"parametrization must be a Parametrization, such as CompositiveField(), got {parametrization!r}"
            )
        self.initializer = initializer
        self._initializers = () if initializer is None else ensure_tuple(initializer)
        for one in self._initializers:
            if not callable(one):
                raise TypeError(f"initializer must be one such as ConvexInitializer(), or None, got {one!r}")
        self.symmetric = boolean("symmetric", symmetric)
        self.tolerance = not_negative("tolerance", tolerance)

    def __call__(
        self,
        pair: Tensor,
        start: Tensor | None = None,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
    ) -> Tensor:
        """Displacement ``(B, n, *spatial)`` in voxels of a pair ``(B, 2, *spatial)``, moving and fixed image.

        ``start`` is an initial displacement of that shape, resampled to the first level; default: zero. Masks ``(B, 1,
        *spatial)`` weight the voxels of their images. Errors are those of ``AffineRegistration``.
        """
        image_pair = ImagePair.of(pair, moving_mask, fixed_mask)
        shape = pair.shape[2:]
        zero = image_pair.moving.new_zeros((len(pair), len(shape), *shape))
        start = zero if start is None else start.as_subclass(Tensor)
        starts = [start]
        if self._initializers:
            warped = image_pair.warp_moving(start)
            starts = [compose_ddf(start, initializer(warped)) for initializer in self._initializers]
        start, *fields = (torch.cat([ddf, zero]) if self.symmetric else ddf for ddf in (start, *starts))
        one = last = (1,) * len(shape)
        apart = self.parametrization.stride
        # Of nodes, not of voxels, an axis has at least the smallest size.
        for strides, images, iterations in image_pair.levels(self._halvings, apart * MIN_SIZE):
            nodes = tuple(apart * stride for stride in strides)
            cost = self._cost(images)
            for index, ddf in enumerate(fields):
                optimizer = self.parametrization.optimizer(resample_ddf(ddf, last, nodes, shape), iterations)
                fields[index] = minimize(optimizer, cost, iterations, self.tolerance)
            if len(fields) > 1:
                fields = [self._best(fields, resample_ddf(start, last, nodes, shape), images)]
            last = nodes
        ddf = resample_ddf(fields[0], last, one, shape)
        if not self.symmetric:
            return ddf
        moving_ddf, fixed_ddf = ddf.chunk(2)
        return compose_ddf(moving_ddf, invert_ddf(fixed_ddf)[0])

    def _best(self, fields: Sequence[Tensor], start: Tensor, images: ImagePair) -> Tensor:
        """The first field of each pair, unless another's cost is clearly lower, seen from that of the initial field."""
        best, count = fields[0].clone(), len(images.fixed)
        for index in range(count):
            cost = self._cost(images.sample(index))
            rows = slice(index, None, count)  # both fields of a pair, if ``symmetric``
            with torch.no_grad():
                unmoved, *costs = (float(cost(ddf[rows])) for ddf in (start, *fields))
            least = min(range(len(costs)), key=costs.__getitem__)
            if costs[0] - costs[least] >= _CLEAR_GAIN * abs(unmoved - costs[0]):
                best[rows] = fields[least][rows]
            logger.info("initial fields: costs %s", ", ".join(f"{value:.4g}" for value in costs))
        return best

    def _cost(self, image_pair: ImagePair) -> Cost:
        shape = list(image_pair.moving.shape[2:])

        def cost(coarse: Tensor) -> Tensor:
            ddf = coarse if self.parametrization.stride == 1 else crop(upsample_ddf(coarse, 2), shape)
            if not self.symmetric:
                return self._evaluate(image_pair, ddf)
            moving_ddf, fixed_ddf = ddf.chunk(2)
            forward = image_pair.warp_fixed(fixed_ddf)
            backward = image_pair.warp_moving(moving_ddf).swapped()
            return (self._evaluate(forward, moving_ddf) + self._evaluate(backward, fixed_ddf)) / 2

        return cost

    def _evaluate(self, image_pair: ImagePair, ddf: Tensor) -> Tensor:
        target = {"moving": image_pair.moving, "fixed": image_pair.fixed}
        mask = image_pair.mask(ddf)
        total: Tensor = self.objective([ddf], target if mask is None else {**target, "mask": mask})
        return total
