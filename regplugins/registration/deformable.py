# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair by optimization, coarse to fine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from regplugins.checks import boolean, not_negative
from regplugins.registration.compositive_field import CompositiveField
from regplugins.registration.image_pair import MIN_SIZE, ImagePair, as_tensor
from regplugins.registration.levels import level_halvings, resample_ddf
from regplugins.registration.parametrization import Cost, Parametrization, descend
from regplugins.registration.reprs import ReprMixin
from regplugins.spatial import compose_ddf, crop, invert_ddf, upsample_ddf


class DeformableRegistration(ReprMixin):
    """Lower a training objective of one pair by changing its displacement field, at several resolutions.

    The field lies on every second voxel of a level's images and is linear between; the images of a level are those of
    the next finer one averaged, every second voxel kept. Nothing but the field goes from one level to the next.

    Args:
        objective: loss ``(fields, target) -> scalar``, as in training, its arguments named so or ``*args``;
            ``PairLoss`` makes one of a similarity.
        levels: spacing of the images in mm and greatest number of iterations of each level, coarsest first; a spacing
            is rounded to that of the pair, or twice, four times, ... that, as long as an axis that is halved has 32
            voxels or more; levels that come to one spacing are one, with as many iterations as the longest.
        spacing: of the pair's grid, mm; of several, one an axis, the smallest counts; None: automatic, lengths in mm
            are those on a grid of 2 mm and scale with it.
        parametrization: how the field is changed; default: ``CompositiveField()``.
        initializer: computes the initial field: ``AffineInitializer`` (rigid or affine) or ``ConvexInitializer`` (large
            displacements).
        symmetric: move both images, each by a field of its own, to where they meet; what comes out is the one field and
            the inverse of the other, and, of the images swapped, the inverse. (Avants et al., Medical Image Analysis
            2008.) An initial field moves the moving image alone: with one the inverse holds only nearly.
        tolerance: a level ends early once ten iterations lower the cost by no more than this share of what the level
            has gained so far.

    Raises:
        ValueError: no level, levels from fine to coarse, fewer than one iteration, or a spacing or tolerance that is
            none.
        TypeError: ``objective`` takes no ``fields``, as a similarity alone does not; ``symmetric`` is no
            boolean, or ``parametrization`` no deformation model.
    """

    def __init__(
        self,
        objective: nn.Module,
        levels: Sequence[tuple[float, int]],
        spacing: float | Sequence[float] | None = 1.0,
        parametrization: Parametrization | None = None,
        initializer: Callable[[ImagePair], Tensor] | None = None,
        symmetric: bool = False,
        tolerance: float = 0.0,
    ) -> None:
        _check_objective(objective)
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
        self.symmetric = boolean("symmetric", symmetric)
        self.tolerance = not_negative("tolerance", tolerance)

    def __call__(
        self,
        pair: Tensor,
        start: Tensor | None = None,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            pair: ``(B, 2, *spatial)``, moving and fixed image.
            start: ``(B, n, *spatial)`` displacement in voxels; default: none. It is brought to the first level's field:
                what that cannot hold of it has to be found again.
            fixed_mask: ``(B, 1, *spatial)``, weighs where the fixed image counts.
            moving_mask: ``(B, 1, *spatial)``, the same of the moving image.

        Returns:
            ``(B, n, *spatial)`` displacement in voxels.

        Raises:
            TypeError: the images are of less than 32 bits, or integers.
            RuntimeError: in ``torch.inference_mode``, where nothing has a derivative.
        """
        image_pair = ImagePair.of(pair, moving_mask, fixed_mask)
        shape = pair.shape[2:]
        start = image_pair.moving.new_zeros((len(pair), len(shape), *shape)) if start is None else as_tensor(start)
        if self.initializer is not None:
            start = compose_ddf(start, self.initializer(image_pair.with_moving_moved(start)))
        ddf, depth = torch.cat([start, torch.zeros_like(start)]) if self.symmetric else start, 0
        # Twice, as a field that is to bend has a node at every second voxel only.
        for level, seen, iterations in image_pair.levels(self._halvings, 2 * MIN_SIZE):
            ddf, depth = resample_ddf(ddf, depth, level + 1, shape), level + 1
            descent = self.parametrization.begin(ddf, iterations)
            ddf = descend(descent, self._cost(seen), iterations, self.tolerance)
        ddf = resample_ddf(ddf, depth, 0, shape)
        if not self.symmetric:
            return ddf
        to_moving, to_fixed = ddf.chunk(2)
        return compose_ddf(to_moving, invert_ddf(to_fixed)[0])

    def _cost(self, image_pair: ImagePair) -> Cost:
        shape = list(image_pair.moving.shape[2:])

        def cost(coarse: Tensor) -> Tensor:
            ddf = crop(upsample_ddf(coarse, 2), shape)
            if not self.symmetric:
                return self._compare(image_pair, ddf)
            to_moving, to_fixed = ddf.chunk(2)
            there = image_pair.with_fixed_moved(to_fixed)
            back = image_pair.with_moving_moved(to_moving).swapped()
            return (self._compare(there, to_moving) + self._compare(back, to_fixed)) / 2

        return cost

    def _compare(self, image_pair: ImagePair, ddf: Tensor) -> Tensor:
        target = {"moving": image_pair.moving, "fixed": image_pair.fixed}
        mask = image_pair.mask(ddf)
        total: Tensor = self.objective([ddf], target if mask is None else {**target, "mask": mask})
        return total


def _check_objective(objective: Callable[..., Tensor]) -> None:
    """A similarity, given a list of fields and a mapping, would end in an error that names neither."""
    parameters = inspect.signature(getattr(objective, "forward", objective)).parameters
    if "fields" not in parameters and not any(p.kind is p.VAR_POSITIONAL for p in parameters.values()):
        raise TypeError(f"objective must take (fields, target), as PairLoss does, got {objective!r}")
