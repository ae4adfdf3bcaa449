# SPDX-License-Identifier: Apache-2.0
"""Deformable registration of one pair by optimization, coarse to fine."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from regplugins.checks import boolean, not_negative
from regplugins.registration.image_pair import MIN_SIZE, ImagePair, level_halvings, resample_ddf
from regplugins.registration.parametrization import CompositiveField, Cost, Parametrization, ReprMixin, minimize
from regplugins.spatial import compose_ddf, crop, invert_ddf, upsample_ddf_by_axis

logger = logging.getLogger(__name__)

Initializer = Callable[[ImagePair], Tensor]
# Relative gain in cost, above that of equal images, that another start needs. Chosen by tuning pairs: livers gain 9 %
# and lose a quarter of their error; chests gain up to 5 % and get worse.
_CLEAR_GAIN = 0.06


def clearly_lowest(costs: Sequence[float], gain: float) -> int:
    """Index of the first cost, or of the lowest if that is lower by more than a share ``gain``."""
    lowest = costs.index(min(costs))
    return lowest if costs[lowest] < (1 - gain) * costs[0] else 0


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
            displacements). Of a list, the coarsest level is optimized from each. A pair keeps the first unless another
            ends more than 6 % nearer to the cost of equal images. With masks the first is used alone, since costs under
            unlike masks do not compare.
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
        several: Any = initializer if isinstance(initializer, list | tuple) else [initializer]
        self.initializers: tuple[Initializer, ...] = tuple(one for one in several if one is not None)
        for one in self.initializers:
            if not callable(one):
                raise TypeError(
                    f"initializer must be one such as ConvexInitializer(), a list of such, or None, got {one!r}"
                )
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
        return self.register(pair, start, fixed_mask, moving_mask)[0]

    def register(
        self,
        pair: Tensor,
        start: Tensor | None = None,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
    ) -> tuple[Tensor, list[Initializer | None]]:
        """Return what a call does, and the initializer that each pair of the batch kept, None without one."""
        image_pair = ImagePair.of(pair, moving_mask, fixed_mask)
        shape = pair.shape[2:]
        zero = image_pair.moving.new_zeros((len(pair), len(shape), *shape))
        start = zero if start is None else start.as_subclass(Tensor)
        if start.shape != zero.shape:
            raise ValueError(f"start: expected shape {tuple(zero.shape)}, got {tuple(start.shape)}")
        fields = self._starts(image_pair, start)
        if self.symmetric:
            fields = [torch.cat([ddf, zero]) for ddf in fields]
        kept: list[Initializer | None] = [self.initializers[0] if self.initializers else None] * len(pair)
        one = last = (1,) * len(shape)
        apart = self.parametrization.stride
        # The smallest size of an axis is a number of nodes, not of voxels.
        for strides, images, iterations in image_pair.levels(self._halvings, apart * MIN_SIZE):
            nodes = tuple(apart * stride for stride in strides)
            cost = self._cost(images)
            for index, ddf in enumerate(fields):
                optimizer = self.parametrization.optimizer(resample_ddf(ddf, last, nodes, shape), iterations)
                fields[index] = minimize(optimizer, cost, iterations, self.tolerance)
            if len(fields) > 1:
                best, indices = self._best(fields, images)
                fields, kept = [best], [self.initializers[index] for index in indices]
            last = nodes
        ddf = resample_ddf(fields[0], last, one, shape)
        if not self.symmetric:
            return ddf, kept
        moving_ddf, fixed_ddf = ddf.chunk(2)
        return compose_ddf(moving_ddf, invert_ddf(fixed_ddf)[0]), kept

    def _starts(self, image_pair: ImagePair, start: Tensor) -> list[Tensor]:
        """The fields to start from: those of the initializers, after the given one."""
        if not self.initializers:
            return [start]
        is_masked = image_pair.moving_mask is not None or image_pair.fixed_mask is not None
        used = self.initializers[:1] if is_masked else self.initializers
        warped = image_pair.warp_moving(start)
        return [compose_ddf(start, one(warped)) for one in used]

    def _best(self, fields: Sequence[Tensor], images: ImagePair) -> tuple[Tensor, list[int]]:
        """The first field of each pair, unless the cost of another is clearly nearer to that of two equal images.

        Also returns the index of each pair's field.
        """
        best, count, indices = fields[0].clone(), len(images.fixed), []
        for index in range(count):
            pair = images.sample(index)
            rows = slice(index, None, count)  # both fields of a pair, if ``symmetric``
            excess = self._excess(pair, [ddf[rows] for ddf in fields])
            kept = clearly_lowest(excess, _CLEAR_GAIN)
            best[rows] = fields[kept][rows]
            indices.append(kept)
            shown = ", ".join(f"{value:.4g}" for value in excess)
            logger.info(
                "initial field %d of %d is kept: cost above that of equal images %s", kept + 1, len(fields), shown
            )
        return best, indices

    def excess_cost(self, pair: Tensor, ddf: Tensor) -> float:
        """Cost of a field above that of the fixed image with itself, at the coarsest level.

        ``pair`` is ``(1, 2, *spatial)``, ``ddf`` ``(1, n, *spatial)`` in voxels; inf if the cost is not finite. Only
        for a registration that is not ``symmetric``.
        """
        apart = self.parametrization.stride
        strides, images, _ = ImagePair.of(pair, None, None).levels(self._halvings[:1], apart * MIN_SIZE)[0]
        nodes = tuple(apart * stride for stride in strides)
        return self._excess(images, [resample_ddf(ddf, (1,) * len(nodes), nodes, pair.shape[2:])])[0]

    @torch.no_grad()
    def _excess(self, image_pair: ImagePair, fields: Sequence[Tensor]) -> list[float]:
        """Costs of fields of one pair's nodes above that of its fixed image with itself, inf if not finite."""
        minimum = float(self._cost(replace(image_pair, moving=image_pair.fixed))(torch.zeros_like(fields[0])))
        values = (float(self._cost(image_pair)(ddf)) for ddf in fields)
        return [value - minimum if math.isfinite(value) else math.inf for value in values]

    def _cost(self, image_pair: ImagePair) -> Cost:
        shape = list(image_pair.moving.shape[2:])

        def cost(coarse: Tensor) -> Tensor:
            fine = coarse if self.parametrization.stride == 1 else upsample_ddf_by_axis(coarse, [2] * len(shape))
            ddf = crop(fine, shape)
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
