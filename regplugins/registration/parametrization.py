# SPDX-License-Identifier: Apache-2.0
"""What a deformation model is to the optimizer of a pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from statistics import mean

from monai.networks.layers import GaussianFilter
from torch import Tensor, nn

from regplugins.checks import not_negative, positive
from regplugins.registration.reprs import ReprMixin

# Of a field (B, n, *spatial) in voxels, a scalar.
Cost = Callable[[Tensor], Tensor]

# What is left of the step at the end of a level.
LAST_STEP = 0.1
_WINDOW = 10
# Adam's own 1e-8 would be felt: of a mean over millions of voxels, the gradient at one is not much larger.
EPSILON = 1e-12


class Descent(ABC):
    """A field on its way to a lower cost."""

    @property
    @abstractmethod
    def ddf(self) -> Tensor:
        """Where it is, ``(B, n, *spatial)`` voxels, without a graph."""

    @abstractmethod
    def step(self, cost: Cost) -> Tensor:
        """Move on; returns the cost before, a scalar without a graph."""


class Parametrization(ReprMixin, ABC):
    """How a displacement field may change.

    Args:
        smoothing: standard deviation of a Gaussian, voxels of the field.
        step: of an iteration, voxels of the field.

    Raises:
        ValueError: a step that is not positive, a negative smoothing, or one of them no finite number.
    """

    def __init__(self, smoothing: float = 1.5, step: float = 0.15) -> None:
        self.smoothing, self.step = not_negative("smoothing", smoothing), positive("step", step)

    @abstractmethod
    def begin(self, start: Tensor, iterations: int) -> Descent:
        """Set off from a field ``(B, n, *spatial)`` in voxels, for so many steps."""


def descend(descent: Descent, cost: Cost, iterations: int, tolerance: float = 0.0) -> Tensor:
    """Go on until the cost has settled.

    Args:
        descent: what moves.
        cost: to be lowered.
        iterations: at most so many.
        tolerance: the cost has settled once the mean of ten iterations is not lower than that of the ten before by more
            than this share of what was gained since the first; 0: all iterations are done.

    Returns:
        ``(B, n, *spatial)`` voxels.
    """
    costs: list[float] = []
    for _ in range(iterations):
        loss = descent.step(cost)
        if tolerance > 0:  # else the device need not be waited for
            costs.append(float(loss))
            before, now = costs[-2 * _WINDOW : -_WINDOW], costs[-_WINDOW:]
            if len(before) == _WINDOW and mean(before) - mean(now) <= tolerance * (costs[0] - mean(now)):
                break
    return descent.ddf


def gaussian(smoothing: float, like: Tensor) -> nn.Module:
    """A Gaussian over the spatial axes of ``(B, C, *spatial)``, on its device; beyond the border there is nothing."""
    return GaussianFilter(like.dim() - 2, smoothing).to(like) if smoothing else nn.Identity()
