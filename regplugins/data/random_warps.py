# SPDX-License-Identifier: Apache-2.0
"""Random affine and smooth transforms in millimeters, without folding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.transforms import Randomizable
from scipy.spatial.transform import Rotation

from regplugins.spatial import AffineTransform, DisplacementField, Grid, SpatialTransform, spline_basis, spline_values

# A cubic B-spline with control points h apart does not fold if its coefficients along each axis stay below h / K
# (Choi and Lee, Injectivity conditions of 2D and 3D uniform cubic B-spline functions, Graphical Models 62 (2000)
# 411-427).
_INJECTIVE = {2: 2.046392675, 3: 2.479472335}


class RandomWarp(Randomizable):
    """Random transforms of the world, ``x -> A(x + u(x))``, with ``u`` smooth and ``A`` affine about a grid's center.

    ``u`` is a cubic B-spline with random coefficients. Its largest length is drawn between half of ``displacement`` and
    all of it, and limited by a sufficient condition against folding.

    Args:
        displacement: largest length of ``u``, mm.
        control_spacing: smallest and largest distance of the control points, mm, drawn for each transform.
        rotation: largest angle about a random axis, degrees.
        translation: largest shift along each axis, mm.
        scaling: largest relative change of size along each axis.

    Raises:
        ValueError: if a magnitude is negative, ``scaling`` is 1 or more, or ``control_spacing`` is not two positive
            numbers in ascending order.
    """

    def __init__(
        self,
        displacement: float = 8.0,
        control_spacing: Sequence[float] = (24.0, 64.0),
        rotation: float = 6.0,
        translation: float = 4.0,
        scaling: float = 0.05,
    ) -> None:
        if min(displacement, rotation, translation, scaling) < 0 or scaling >= 1:
            raise ValueError(
                "displacement, rotation, translation and scaling must be at least 0 and scaling below 1, got "
                f"{displacement}, {rotation}, {translation} and {scaling}"
            )
        smallest, largest = control_spacing
        if not 0 < smallest <= largest:
            raise ValueError(f"control_spacing must be two ascending positive numbers, got {control_spacing}")
        self.displacement = displacement
        self.control_spacing = (smallest, largest)
        self.rotation = rotation
        self.translation = translation
        self.scaling = scaling

    def __call__(self, grid: Grid) -> SpatialTransform:
        """Draw ``A`` after ``u``, with ``u`` on a grid and ``A`` about its center."""
        return self.affine(grid) @ self.smooth(grid)

    def affine(self, grid: Grid) -> AffineTransform:
        """Draw the affine part alone."""
        n = grid.ndim
        axis = self.R.normal(size=3) if n == 3 else np.array([0.0, 0.0, 1.0])
        angle = math.radians(self.R.uniform(-self.rotation, self.rotation))
        matrix = np.eye(n + 1)
        matrix[:n, :n] = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()[:n, :n]
        matrix[:n, :n] *= self.R.uniform(1 - self.scaling, 1 + self.scaling, size=n)
        center = grid.center.numpy()
        shift = self.R.uniform(-self.translation, self.translation, size=n)
        matrix[:n, n] = center + shift - matrix[:n, :n] @ center
        return AffineTransform(torch.from_numpy(matrix))

    def smooth(self, grid: Grid) -> DisplacementField:
        """Draw the smooth part alone."""
        n = grid.ndim
        step = math.exp(self.R.uniform(*map(math.log, self.control_spacing)))
        sizes = zip(grid.shape, grid.spacing.tolist(), strict=True)
        bases = [spline_basis(size, spacing / step) for size, spacing in sizes]
        coefficients = torch.from_numpy(self.R.uniform(-1, 1, size=(n, *[basis.shape[1] for basis in bases])))
        vectors = spline_values(coefficients, bases)
        length = self.R.uniform(0.5, 1) * self.displacement
        directions = grid.affine[:n, :n] / grid.spacing
        largest_along_axes = torch.tensordot(torch.linalg.inv(directions), coefficients, dims=1).abs().max()
        largest = vectors.square().sum(dim=0).max().sqrt()
        scale = min(length / float(largest), step / _INJECTIVE[n] / float(largest_along_axes))
        return DisplacementField(scale * vectors, grid)
