# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair by optimising its displacement field."""

from __future__ import annotations

import torch
from monai.networks.layers import GaussianFilter
from torch import Tensor, nn

from regplugins.spatial import compose, crop, enlarge, exponentiate


class FieldOptimizer:
    """Improve a field by a smooth diffeomorphic correction: ``start ∘ exp(G * v)``, ``v`` found by Adam under a
    training objective.

    ``v`` is a stationary velocity on a grid of every second voxel, kept smooth by the Gaussian ``G`` (a Sobolev-like
    gradient), so that what is added does not fold.

    Args:
        objective: loss ``(fields, target) -> scalar``, as in training.
        iterations: of Adam.
        learning_rate: of Adam, voxels of the full grid.
        smoothing: standard deviation of ``G`` in voxels of the full grid.
        squarings: of the exponential.

    Raises:
        ValueError: fewer than one iteration.
    """

    def __init__(
        self,
        objective: nn.Module,
        iterations: int = 40,
        learning_rate: float = 0.1,
        smoothing: float = 2.0,
        squarings: int = 4,
    ) -> None:
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.objective = objective
        self.iterations = iterations
        self.learning_rate = learning_rate
        self.smoothing = smoothing
        self.squarings = squarings

    def __call__(self, pair: Tensor, start: Tensor) -> Tensor:
        """
        Args:
            pair: ``(B, 2, *spatial)``, moving and fixed image.
            start: ``(B, n, *spatial)`` displacement in voxels.

        Returns:
            ``(B, n, *spatial)`` displacement in voxels.
        """
        target = {"moving": pair[:, :1], "fixed": pair[:, 1:]}
        coarse = [(size + 1) // 2 for size in start.shape[2:]]
        velocity = start.new_zeros((*start.shape[:2], *coarse)).requires_grad_()
        smooth = GaussianFilter(len(coarse), self.smoothing / 2).to(start)
        optimizer = torch.optim.Adam([velocity], lr=self.learning_rate / 2)
        with torch.enable_grad():
            for _ in range(self.iterations):
                ddf = compose(start, self._correction(smooth(velocity), start))
                optimizer.zero_grad()
                self.objective([ddf], target).backward()
                optimizer.step()
        return compose(start, self._correction(smooth(velocity), start)).detach()

    def _correction(self, velocity: Tensor, start: Tensor) -> Tensor:
        return crop(enlarge(exponentiate(velocity, self.squarings), 2), list(start.shape[2:]))
