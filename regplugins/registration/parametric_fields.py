# SPDX-License-Identifier: Apache-2.0
"""Displacement fields given by parameters: stationary velocity fields and B-splines."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from regplugins.checks import whole
from regplugins.registration.parametrization import Cost, FieldOptimizer, Parametrization, adam, gaussian
from regplugins.spatial import compose_ddf, integrate_velocity, spline_basis, spline_values


class StationaryVelocityField(Parametrization):
    """``u = start ∘ exp(G * v)`` with a velocity ``v``, optimized by Adam, and a Gaussian ``G``.

    Diffeomorphic up to discretization.

    Args:
        smoothing: standard deviation of ``G`` in voxels of the field.
        step: step size of Adam, voxels of the field; falls to a tenth over a level.
        squarings: of the exponential.

    Raises:
        ValueError: if ``step`` is not positive, or ``smoothing`` or ``squarings`` is negative.
    """

    def __init__(self, smoothing: float = 1.5, step: float = 0.15, squarings: int = 5) -> None:
        super().__init__(smoothing, step)
        self.squarings = whole("squarings", squarings, minimum=0)

    def optimizer(self, start: Tensor, iterations: int) -> FieldOptimizer:
        smooth = gaussian(self.smoothing, start)
        return ParameterOptimizer(
            torch.zeros_like(start),
            lambda velocity: compose_ddf(start, integrate_velocity(smooth(velocity), self.squarings)),
            self.step,
            iterations,
        )


class BSplineField(Parametrization):
    """``u = start + Σ c_k β³(x/s - k)`` with control points ``s`` voxels apart, whose ``c`` Adam optimizes.

    (Rueckert et al., IEEE TMI 1999.) Only the cost and the distance of the control points prevent folding.

    Args:
        distance: of the control points, voxels of the field, ``s``.
        step: step size of Adam, voxels of the field; falls to a tenth over a level.

    Raises:
        ValueError: if ``step`` is not positive, or ``distance`` is not a whole number of at least 1.
    """

    def __init__(self, distance: int = 3, step: float = 0.15) -> None:
        super().__init__(0.0, step)
        self.distance = whole("distance", distance)

    def optimizer(self, start: Tensor, iterations: int) -> FieldOptimizer:
        bases = [spline_basis(size, 1 / self.distance).to(start) for size in start.shape[2:]]
        control = start.new_zeros((*start.shape[:2], *[basis.shape[1] for basis in bases]))
        return ParameterOptimizer(control, lambda points: start + spline_values(points, bases), self.step, iterations)


class ParameterOptimizer(FieldOptimizer):
    """Adam on the parameters ``(B, ...)`` of a field, which it changes in place."""

    def __init__(self, parameters: Tensor, field: Callable[[Tensor], Tensor], step: float, iterations: int) -> None:
        self._parameters = parameters.requires_grad_()
        self._field = field
        self._adam, self._schedule = adam(self._parameters, step, iterations)

    @property
    def ddf(self) -> Tensor:
        with torch.no_grad():
            return self._field(self._parameters)

    def step(self, cost: Cost) -> Tensor:
        with torch.enable_grad():
            loss = cost(self._field(self._parameters))
            (self._parameters.grad,) = torch.autograd.grad(loss, self._parameters)
        self._adam.step()
        self._schedule.step()
        return loss.detach()
