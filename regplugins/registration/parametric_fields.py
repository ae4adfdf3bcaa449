# SPDX-License-Identifier: Apache-2.0
"""Displacement fields that are a function of parameters: stationary velocities and splines."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from regplugins.checks import whole
from regplugins.registration.parametrization import EPSILON, LAST_STEP, Cost, Descent, Parametrization, gaussian
from regplugins.spatial import compose_ddf, integrate_velocity, spline_basis, spline_values


class StationaryVelocityField(Parametrization):
    """``u = start ∘ exp(G * v)``: a stationary velocity ``v``, kept smooth by a Gaussian ``G``, found by Adam.

    A diffeomorphism, but for discretization.

    Args:
        smoothing: standard deviation of ``G`` in voxels of the field.
        step: of Adam, voxels of the field; it shrinks to a tenth in the course of a level.
        squarings: of the exponential.

    Raises:
        ValueError: a step that is not positive, a negative smoothing or number of squarings.
    """

    def __init__(self, smoothing: float = 1.5, step: float = 0.15, squarings: int = 5) -> None:
        super().__init__(smoothing, step)
        self.squarings = whole("squarings", squarings, minimum=0)

    def begin(self, start: Tensor, iterations: int) -> Descent:
        smooth = gaussian(self.smoothing, start)
        return ParametricDescent(
            torch.zeros_like(start),
            lambda velocity: compose_ddf(start, integrate_velocity(smooth(velocity), self.squarings)),
            self.step,
            iterations,
        )


class BSplineField(Parametrization):
    """``u = start + Σ c_k β³(x/s - k)``: displacements ``c`` of control points ``s`` voxels apart, found by Adam.

    (Rueckert et al., IEEE TMI 1999.) Nothing keeps it from folding but the cost and the distance of the points.

    Args:
        distance: of the control points, voxels of the field, ``s``.
        step: of Adam, voxels of the field; it shrinks to a tenth in the course of a level.

    Raises:
        ValueError: a step that is not positive, or a distance of less than one.
    """

    def __init__(self, distance: int = 3, step: float = 0.15) -> None:
        super().__init__(0.0, step)
        self.distance = whole("distance", distance)

    def begin(self, start: Tensor, iterations: int) -> Descent:
        bases = [spline_basis(size, 1 / self.distance).to(start) for size in start.shape[2:]]
        control = start.new_zeros((*start.shape[:2], *[basis.shape[1] for basis in bases]))
        return ParametricDescent(control, lambda points: start + spline_values(points, bases), self.step, iterations)


class ParametricDescent(Descent):
    """Adam on the parameters, ``(B, ...)``, of a field; these are changed in place."""

    def __init__(self, parameters: Tensor, field: Callable[[Tensor], Tensor], step: float, iterations: int) -> None:
        self._parameters = parameters.requires_grad_()
        self._field = field
        self._adam = torch.optim.Adam([parameters], lr=step, eps=EPSILON)
        self._schedule = LinearLR(self._adam, 1.0, LAST_STEP, iterations)

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
