# SPDX-License-Identifier: Apache-2.0
"""Rigid and affine registration of one pair by optimization."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from regplugins.checks import choice, not_negative, positive
from regplugins.losses import masked_similarity
from regplugins.registration.image_pair import ImagePair
from regplugins.registration.levels import REFERENCE_SPACING, level_halvings
from regplugins.registration.parametric_fields import ParametricDescent
from regplugins.registration.parametrization import descend
from regplugins.registration.reprs import ReprMixin
from regplugins.spatial import identity_grid, warp


class AffineRegistration(ReprMixin):
    """Lower a dissimilarity of one pair by turning, shifting and, of an affine transform, stretching the moving image.

    The matrix is the exponential of what Adam finds, about the center of the grid in mm, so that a rigid transform
    stays one.

    Args:
        similarity: loss ``(warped, fixed) -> scalar``, each ``(B, 1, *spatial)``, as ``regplugins.losses.PairLoss``
            takes it.
        kind: "rigid" or "affine".
        levels: spacing of the images in mm and greatest number of iterations of each level, coarsest first; a spacing
            is rounded to that of the pair, or twice, four times, ... that, as long as an axis that is halved has 16
            voxels or more; levels that come to one spacing are one, with as many iterations as the longest.
        spacing: of the pair's grid, mm, one number or one an axis; None: automatic, lengths in mm are those on a grid
            of 2 mm and scale with it.
        step: how far each parameter moves the corners of the grid in an iteration, at most, in voxels of the level's
            images.
        tolerance: a level ends early once ten iterations lower the cost by no more than this share of what the level
            has gained so far.

    Raises:
        ValueError: another kind, a step that is not positive, a negative tolerance, no level, levels from fine to
            coarse, fewer than one iteration, or a spacing that is none.
    """

    def __init__(
        self,
        similarity: nn.Module,
        kind: str = "rigid",
        levels: Sequence[tuple[float, int]] = ((8.0, 100), (4.0, 50)),
        spacing: float | Sequence[float] | None = 1.0,
        step: float = 0.5,
        tolerance: float = 0.0,
    ) -> None:
        self.similarity = similarity
        self.kind = kind
        choice("kind", kind, _GENERATORS)
        self.levels = levels
        self._halvings = level_halvings(levels, spacing)
        self.spacing = spacing
        self.step, self.tolerance = positive("step", step), not_negative("tolerance", tolerance)

    def __call__(self, pair: Tensor, fixed_mask: Tensor | None = None, moving_mask: Tensor | None = None) -> Tensor:
        """
        Args:
            pair: ``(B, 2, *spatial)``, moving and fixed image.
            fixed_mask: ``(B, 1, *spatial)``, weighs where the fixed image counts.
            moving_mask: ``(B, 1, *spatial)``, the same of the moving image.

        Returns:
            ``(B, n + 1, n + 1)`` float64 matrices, from a voxel of the fixed image to where it is in the moving one.

        Raises:
            TypeError: the images are of less than 32 bits, or integers.
            RuntimeError: in ``torch.inference_mode``, where nothing has a derivative.
            ValueError: the images have another number of axes than the spacing.
        """
        motion, parameters = self._optimized(ImagePair.of(pair, moving_mask, fixed_mask))
        return motion.matrix(parameters)

    def field(self, image_pair: ImagePair) -> Tensor:
        """The same as a displacement in voxels, ``(B, n, *spatial)``."""
        motion, parameters = self._optimized(image_pair)
        return motion.ddf(parameters, image_pair.moving.shape[2:], 0)

    def _optimized(self, image_pair: ImagePair) -> tuple[_Motion, Tensor]:
        shape = image_pair.moving.shape[2:]
        n = len(shape)
        spacing = REFERENCE_SPACING if self.spacing is None else self.spacing
        sizes = list(spacing) if isinstance(spacing, Sequence) else [spacing] * n
        if len(sizes) != n:
            raise ValueError(f"spacing of {len(sizes)} axes, {sizes}, for images of {n}")
        motion = _Motion(_GENERATORS[self.kind](n), torch.tensor(sizes), torch.tensor(shape))
        parameters = image_pair.moving.new_zeros(len(image_pair.moving), motion.count)
        for level, seen, iterations in image_pair.levels(self._halvings):

            def field(parameters: Tensor, seen: ImagePair = seen, level: int = level) -> Tensor:
                return motion.ddf(parameters, seen.moving.shape[2:], level)

            def cost(ddf: Tensor, seen: ImagePair = seen) -> Tensor:
                return masked_similarity(self.similarity, warp(seen.moving, ddf), seen.fixed, seen.mask(ddf))

            descent = ParametricDescent(parameters, field, self.step * min(sizes) * 2**level, iterations)
            descend(descent, cost, iterations, self.tolerance)
        return motion, parameters.detach()


class AffineInitializer(ReprMixin):
    """A rigid or affine transform for what goes on from there with a field of its own.

    Args:
        optimizer: finds it.
    """

    def __init__(self, optimizer: AffineRegistration) -> None:
        self.optimizer = optimizer

    def __call__(self, image_pair: ImagePair) -> Tensor:
        """
        Args:
            image_pair: what to register.

        Returns:
            ``(B, n, *spatial)`` displacement in voxels.
        """
        return self.optimizer.field(image_pair)


class _Motion:
    """Linear maps about the middle of a grid by their parameters, which all are about as many mm at its corners.

    Args:
        generators: ``(k, n, n)``; their sum weighted by the parameters is what the exponential is taken of.
        spacing: ``(n,)`` of the grid, mm.
        shape: ``(n,)`` of the grid.
    """

    def __init__(self, generators: Tensor, spacing: Tensor, shape: Tensor) -> None:
        self.spacing = spacing.double()
        self.middle = (shape.double() - 1) / 2
        self.generators = generators / (self.middle * self.spacing).norm().clamp(min=1e-6)
        self.count = len(generators) + len(spacing)

    def parts(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, n, n)`` and ``(B, n)``: what is done in mm to a place seen from the middle."""
        k = len(self.generators)
        generator = torch.einsum("bk,kij->bij", parameters[:, :k].double(), self.generators.to(parameters.device))
        return torch.matrix_exp(generator), parameters[:, k:].double()

    def ddf(self, parameters: Tensor, shape: Sequence[int], halvings: int) -> Tensor:
        """``(B, n, *shape)`` displacement in voxels of the grid halved so often, in the type of the parameters."""
        matrix, shift = self.parts(parameters)
        n = len(shape)
        spacing, middle = self.spacing.to(parameters.device), self.middle.to(parameters.device)
        # All in voxels of the level: turned into mm, moved, and back.
        between = (matrix - torch.eye(n).to(matrix)) * spacing / spacing[:, None]
        offset = (shift / spacing - (between @ middle)) / 2**halvings
        index = identity_grid(list(shape), parameters.device, parameters.dtype).flatten(1)
        moved = between.to(index.dtype) @ index + offset.to(index.dtype)[..., None]
        return moved.view(len(parameters), n, *shape)

    def matrix(self, parameters: Tensor) -> Tensor:
        """``(B, n + 1, n + 1)`` float64, from voxel to voxel of the grid."""
        turn, shift = (part.cpu() for part in self.parts(parameters))
        n = len(self.spacing)
        matrix = torch.eye(n + 1, dtype=torch.float64).repeat(len(parameters), 1, 1)
        matrix[:, :n, :n] = turn * self.spacing / self.spacing[:, None]
        matrix[:, :n, n] = shift / self.spacing + self.middle - matrix[:, :n, :n] @ self.middle
        return matrix


def _any(n: int) -> Tensor:
    return torch.eye(n * n, dtype=torch.float64).view(-1, n, n)


def _turns(n: int) -> Tensor:
    turns = []
    for i, j in itertools.combinations(range(n), 2):
        turn = torch.zeros(n, n, dtype=torch.float64)
        turn[i, j], turn[j, i] = -1.0, 1.0
        turns.append(turn)
    return torch.stack(turns)


# The directions in which a matrix may change, for a number of axes.
_GENERATORS: dict[str, Callable[[int], Tensor]] = {"rigid": _turns, "affine": _any}
