# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair by optimization, coarse to fine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from regplugins.checks import boolean, not_negative
from regplugins.optimization.described import Described
from regplugins.optimization.displacement import Displacement
from regplugins.optimization.model import Cost, DeformationModel, descend
from regplugins.optimization.pyramid import at_depth, halvings_of
from regplugins.optimization.scene import LEAST, Scene, plain
from regplugins.spatial import compose, crop, enlarge, invert


class PairOptimizer(Described):
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
        model: how the field is changed; default: ``Displacement()``.
        first: finds the field to begin with: ``LinearStart`` (rigid or affine), ``ConvexStart`` (large displacements).
        symmetric: move both images, each by a field of its own, to where they meet; what comes out is the one field and
            the inverse of the other, and, of the images exchanged, the inverse. (Avants et al., Medical Image Analysis
            2008.) What ``first`` finds, or a start, is the moving image's alone: with it the inverse is but nearly so.
        tolerance: a level ends early once ten iterations lower the cost by no more than this share of what the level
            has gained so far.

    Raises:
        ValueError: no level, levels from fine to coarse, fewer than one iteration, or a spacing or tolerance that is
            none.
        TypeError: ``objective`` takes no ``fields``, as a similarity alone does not; ``symmetric`` is no
            boolean, or ``model`` no deformation model.
    """

    def __init__(
        self,
        objective: nn.Module,
        levels: Sequence[tuple[float, int]],
        spacing: float | Sequence[float] | None = 1.0,
        model: DeformationModel | None = None,
        first: Callable[[Scene], Tensor] | None = None,
        symmetric: bool = False,
        tolerance: float = 0.0,
    ) -> None:
        _check_objective(objective)
        self.objective = objective
        self.levels = levels
        self._halvings = halvings_of(levels, spacing)
        self.spacing = spacing
        self.model = Displacement() if model is None else model
        if not isinstance(self.model, DeformationModel):
            raise TypeError(f"model must be a deformation model, such as Displacement(), got {model!r}")
        self.first = first
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
        scene = Scene.of(pair, moving_mask, fixed_mask)
        shape = pair.shape[2:]
        start = scene.moving.new_zeros((len(pair), len(shape), *shape)) if start is None else plain(start)
        if self.first is not None:
            start = compose(start, self.first(scene.with_moving_moved(start)))
        ddf, depth = torch.cat([start, torch.zeros_like(start)]) if self.symmetric else start, 0
        # Twice, as a field that is to bend has a node at every second voxel only.
        for level, seen, iterations in scene.levels(self._halvings, 2 * LEAST):
            ddf, depth = at_depth(ddf, depth, level + 1, shape), level + 1
            descent = self.model.begin(ddf, iterations)
            ddf = descend(descent, self._cost(seen), iterations, self.tolerance)
        ddf = at_depth(ddf, depth, 0, shape)
        if not self.symmetric:
            return ddf
        to_moving, to_fixed = ddf.chunk(2)
        return compose(to_moving, invert(to_fixed)[0])

    def _cost(self, scene: Scene) -> Cost:
        shape = list(scene.moving.shape[2:])

        def cost(coarse: Tensor) -> Tensor:
            ddf = crop(enlarge(coarse, 2), shape)
            if not self.symmetric:
                return self._compare(scene, ddf)
            to_moving, to_fixed = ddf.chunk(2)
            there = scene.with_fixed_moved(to_fixed)
            back = scene.with_moving_moved(to_moving).exchanged()
            return (self._compare(there, to_moving) + self._compare(back, to_fixed)) / 2

        return cost

    def _compare(self, scene: Scene, ddf: Tensor) -> Tensor:
        target = {"moving": scene.moving, "fixed": scene.fixed}
        mask = scene.mask(ddf)
        total: Tensor = self.objective([ddf], target if mask is None else {**target, "mask": mask})
        return total


def _check_objective(objective: Callable[..., Tensor]) -> None:
    """A similarity, given a list of fields and a mapping, would end in an error that names neither."""
    parameters = inspect.signature(getattr(objective, "forward", objective)).parameters
    if "fields" not in parameters and not any(p.kind is p.VAR_POSITIONAL for p in parameters.values()):
        raise TypeError(f"objective must take (fields, target), as PairLoss does, got {objective!r}")
