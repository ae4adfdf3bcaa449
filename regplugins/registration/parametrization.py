# SPDX-License-Identifier: Apache-2.0
"""Base classes of parametrized displacement fields and of the optimizers that change them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from statistics import mean

from monai.networks.layers import GaussianFilter
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LinearLR

from regplugins.checks import not_negative, positive
from regplugins.registration.reprs import ReprMixin

# Maps a field (B, n, *spatial) in voxels to a scalar.
Cost = Callable[[Tensor], Tensor]

_FINAL_STEP_RATIO = 0.1
_WINDOW = 10
# The cost is a mean over millions of voxels. Adam's default of 1e-8 is not small against the gradient of one voxel.
_ADAM_EPS = 1e-12


class FieldOptimizer(ABC):
    """Iterative optimizer of one displacement field."""

    @property
    @abstractmethod
    def ddf(self) -> Tensor:
        """Current field, ``(B, n, *spatial)`` voxels, without a graph."""

    @abstractmethod
    def step(self, cost: Cost) -> Tensor:
        """Take one step and return the cost before it, a scalar without a graph."""


class Parametrization(ReprMixin, ABC):
    """Base class of parametrizations of a displacement field.

    Args:
        smoothing: standard deviation of a Gaussian, voxels of the field.
        step: step size, voxels of the field.

    Raises:
        ValueError: if ``step`` is not positive, ``smoothing`` is negative, or one of them is not finite.
    """

    def __init__(self, smoothing: float = 1.5, step: float = 0.15) -> None:
        self.smoothing, self.step = not_negative("smoothing", smoothing), positive("step", step)

    @abstractmethod
    def optimizer(self, start: Tensor, iterations: int) -> FieldOptimizer:
        """Optimizer of at most ``iterations`` steps from a field ``(B, n, *spatial)`` in voxels."""


def minimize(optimizer: FieldOptimizer, cost: Cost, iterations: int, tolerance: float = 0.0) -> Tensor:
    """Step until the cost converges.

    Args:
        optimizer: of the field.
        cost: to minimize.
        iterations: largest number of steps.
        tolerance: stop when the mean cost of ten iterations is lower than that of the ten before by at most this
            fraction of the total decrease. 0: no early stop.

    Returns:
        ``(B, n, *spatial)`` voxels.
    """
    costs: list[float] = []
    for _ in range(iterations):
        loss = optimizer.step(cost)
        if tolerance > 0:  # reading the cost waits for the device
            costs.append(float(loss))
            before, now = costs[-2 * _WINDOW : -_WINDOW], costs[-_WINDOW:]
            if len(before) == _WINDOW and mean(before) - mean(now) <= tolerance * (costs[0] - mean(now)):
                break
    return optimizer.ddf


def adam(parameters: Tensor, step: float, iterations: int) -> tuple[Adam, LinearLR]:
    """Adam and a schedule that lowers its step size linearly to a tenth."""
    optimizer = Adam([parameters], lr=step, eps=_ADAM_EPS)
    return optimizer, LinearLR(optimizer, 1.0, _FINAL_STEP_RATIO, iterations)


def gaussian(smoothing: float, like: Tensor) -> nn.Module:
    """Gaussian filter over the spatial axes of ``(B, C, *spatial)``, on its device; values outside are zero."""
    return GaussianFilter(like.dim() - 2, smoothing).to(like) if smoothing else nn.Identity()
