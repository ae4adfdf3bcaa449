# SPDX-License-Identifier: Apache-2.0
"""Rigid and affine registration of one pair by optimization."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from regplugins.checks import choice, not_negative, positive
from regplugins.losses import masked_similarity
from regplugins.registration.image_pair import REFERENCE_SPACING, ImagePair, Strides, level_halvings
from regplugins.registration.parametrization import AdamOptimizer, ReprMixin, minimize
from regplugins.registration.poses import rotation_generators
from regplugins.spatial import identity_grid, warp


class AffineRegistration(ReprMixin):
    """Rigid or affine registration of one pair by Adam, coarse to fine.

    The matrix is the matrix exponential of the parameters, about the center of the grid in mm. A rigid transform
    stays rigid.

    Args:
        similarity: loss ``(warped, fixed) -> scalar``, each ``(B, 1, *spatial)``, as ``regplugins.losses.PairLoss``
            takes it.
        kind: "rigid" or "affine".
        levels: image spacing in mm and largest iteration count of each level, coarsest first. Spacings are rounded to
            that of the pair times a power of two. Halved axes keep 16 voxels. Levels that round to the same spacing
            are merged and keep the largest iteration count.
        spacing: of the pair's grid, mm, one number or one per axis. None: automatic; lengths in mm then refer to a grid
            of 2 mm and scale with it.
        step: largest motion of the corners of the grid by one parameter in an iteration, voxels of the level's images.
        tolerance: a level ends when ten iterations lower the cost by at most this fraction of its total decrease.

    Raises:
        ValueError: if ``kind`` is unknown, ``step`` or a spacing is not positive, ``tolerance`` is negative, or
            ``levels`` is empty, not ordered coarse to fine, or has an iteration count below 1.
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
        self._generators = choice("kind", kind, _GENERATORS)
        self.levels = levels
        self._halvings = level_halvings(levels, spacing)
        self.spacing = spacing
        self.step, self.tolerance = positive("step", step), not_negative("tolerance", tolerance)

    def __call__(self, pair: Tensor, fixed_mask: Tensor | None = None, moving_mask: Tensor | None = None) -> Tensor:
        """Register a pair ``(B, 2, *spatial)``, moving and fixed image.

        Masks ``(B, 1, *spatial)`` weight the voxels of their images.

        Returns:
            ``(B, n + 1, n + 1)`` float64 matrices that map voxels of the fixed to voxels of the moving image.

        Raises:
            TypeError: if the images are not float32 or float64.
            RuntimeError: in ``torch.inference_mode``, which forbids derivatives.
            ValueError: if the images are not finite, a shape does not fit, or the spacing has another number of axes.
        """
        motion, parameters = self._optimized(ImagePair.of(pair, moving_mask, fixed_mask))
        return motion.matrix(parameters)

    def field(self, image_pair: ImagePair) -> Tensor:
        """Register a pair; return the transform as displacements in voxels, ``(B, n, *spatial)``."""
        motion, parameters = self._optimized(image_pair)
        shape = image_pair.moving.shape[2:]
        return motion.ddf(parameters, shape, (1,) * len(shape))

    def _optimized(self, image_pair: ImagePair) -> tuple[_Motion, Tensor]:
        shape = image_pair.moving.shape[2:]
        n = len(shape)
        try:
            sizes = ensure_tuple_rep(REFERENCE_SPACING if self.spacing is None else self.spacing, n)
        except ValueError as error:
            raise ValueError(f"spacing {self.spacing} for images of {n} axes: {error}") from None
        motion = _Motion(self._generators(n), torch.tensor(sizes), torch.tensor(shape))
        parameters = image_pair.moving.new_zeros(len(image_pair.moving), motion.count)
        for strides, images, iterations in image_pair.levels(self._halvings):

            def field(parameters: Tensor, images: ImagePair = images, strides: Strides = strides) -> Tensor:
                return motion.ddf(parameters, images.moving.shape[2:], strides)

            def cost(ddf: Tensor, images: ImagePair = images) -> Tensor:
                return masked_similarity(self.similarity, warp(images.moving, ddf), images.fixed, images.mask(ddf))

            optimizer = AdamOptimizer(parameters, field, self.step * min(sizes) * max(strides), iterations)
            minimize(optimizer, cost, iterations, self.tolerance)
        return motion, parameters.detach()


class AffineInitializer(ReprMixin):
    """Rigid or affine initial field for a deformable registration."""

    def __init__(self, optimizer: AffineRegistration) -> None:
        self.optimizer = optimizer

    def __call__(self, image_pair: ImagePair) -> Tensor:
        """Displacements in voxels, ``(B, n, *spatial)``."""
        return self.optimizer.field(image_pair)


class _Motion:
    """Affine maps about the center of a grid, with parameters scaled to mm of motion at its corners.

    ``generators``, ``(k, n, n)``, is a basis of the matrix logarithm, ``spacing`` ``(n,)`` mm, ``shape`` ``(n,)``.
    """

    def __init__(self, generators: Tensor, spacing: Tensor, shape: Tensor) -> None:
        self.spacing = spacing.double()
        self.middle = (shape.double() - 1) / 2
        self.generators = generators / (self.middle * self.spacing).norm().clamp(min=1e-6)
        self.count = len(generators) + len(spacing)

    def parts(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Matrix ``(B, n, n)`` and translation ``(B, n)`` in mm about the center."""
        k = len(self.generators)
        generator = torch.einsum("bk,kij->bij", parameters[:, :k].double(), self.generators.to(parameters.device))
        return torch.matrix_exp(generator), parameters[:, k:].double()

    def ddf(self, parameters: Tensor, shape: Sequence[int], strides: Strides) -> Tensor:
        """Displacements ``(B, n, *shape)`` in voxels of an image with these strides, in the parameters' type."""
        matrix, shift = self.parts(parameters)
        n = len(shape)
        spacing, middle = self.spacing.to(parameters.device), self.middle.to(parameters.device)
        moved, level = matrix - torch.eye(n).to(matrix), spacing * spacing.new_tensor(strides)
        # From voxels of the level to mm and back.
        between = moved * level / level[:, None]
        offset = (shift - moved @ (middle * spacing)) / level
        index = identity_grid(list(shape), parameters.device, parameters.dtype).flatten(1)
        displacement = between.to(index.dtype) @ index + offset.to(index.dtype)[..., None]
        return displacement.view(len(parameters), n, *shape)

    def matrix(self, parameters: Tensor) -> Tensor:
        """Matrices ``(B, n + 1, n + 1)`` float64 that map voxels to voxels of the grid."""
        linear, shift = (part.cpu() for part in self.parts(parameters))
        n = len(self.spacing)
        matrix = torch.eye(n + 1, dtype=torch.float64).repeat(len(parameters), 1, 1)
        matrix[:, :n, :n] = linear * self.spacing / self.spacing[:, None]
        matrix[:, :n, n] = shift / self.spacing + self.middle - matrix[:, :n, :n] @ self.middle
        return matrix


_GENERATORS: dict[str, Callable[[int], Tensor]] = {
    "rigid": rotation_generators,
    "affine": lambda n: torch.eye(n * n, dtype=torch.float64).view(-1, n, n),
}
