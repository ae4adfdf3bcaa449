# SPDX-License-Identifier: Apache-2.0
"""Parametrized displacement fields and the optimizers that change them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from statistics import mean

import torch
import torch.nn.functional as F
from monai.networks.layers import gaussian_1d
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import LinearLR

from regplugins.checks import not_negative, positive, whole
from regplugins.spatial import compose_ddf, integrate_velocity, spline_basis, spline_values
from regplugins.spatial.filters import filter_matrix, multiply_axes

# Maps a field (B, n, *spatial) in voxels to a scalar.
Cost = Callable[[Tensor], Tensor]

_FINAL_STEP_RATIO = 0.1
_FINAL_GREEDY_STEP_RATIO = 0.5
_WINDOW = 10
# The cost is a mean over millions of voxels. Adam's default of 1e-8 is not small against the gradient of one voxel.
_ADAM_EPS = 1e-12
# Share of a large gradient below which GreedyField's updates become smaller.
_SATURATION = 0.5
_SAMPLE_VOXELS = 200_000
# MONAI's Gaussian filter ends at this many standard deviations.
_TRUNCATED = 4.0
# Smaller gradients per voxel are rounding. Those of costs like local NCC are up to 0.1 to 1.
_MIN_GRADIENT = 1e-3


def one_line(value: object) -> str:
    """The text of an object in one line, for settings that a report lists."""
    return " ".join(str(value).split())


class ReprMixin:
    """Mixin whose ``repr`` lists the class and its public attributes in one line."""

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if name[0] != "_")
        return one_line(f"{type(self).__name__}({values})")


class FieldOptimizer(ABC):
    """Optimizer of a displacement field, which holds its current state."""

    @property
    @abstractmethod
    def ddf(self) -> Tensor:
        """Current field, ``(B, n, *spatial)`` voxels, without a graph."""

    @abstractmethod
    def step(self, cost: Cost) -> Tensor:
        """Take one step and return the cost before it, a scalar without a graph."""


class AdamOptimizer(FieldOptimizer):
    """Adam on the parameters ``(B, ...)`` of a field, which it changes in place; its step falls linearly to a tenth."""

    def __init__(self, parameters: Tensor, field: Callable[[Tensor], Tensor], step: float, iterations: int) -> None:
        self._parameters = parameters.requires_grad_()
        self._field = field
        self._adam = Adam([parameters], lr=step, eps=_ADAM_EPS)
        self._schedule = LinearLR(self._adam, 1.0, _FINAL_STEP_RATIO, iterations)

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


class Parametrization(ReprMixin, ABC):
    """Base class of parametrizations of a displacement field.

    Args:
        smoothing: standard deviation of a Gaussian, voxels of the field.
        step: step size, voxels of the field.

    Attributes:
        stride: distance of the field's nodes in voxels of the images, 1 or 2.

    Raises:
        ValueError: if ``step`` is not positive, ``smoothing`` is negative, one of them is not finite, or a number of
            squarings or voxels of a derived class is not a whole number in its range.
    """

    stride = 2

    def __init__(self, smoothing: float = 1.5, step: float = 0.15) -> None:
        self.smoothing, self.step = not_negative("smoothing", smoothing), positive("step", step)

    @abstractmethod
    def optimizer(self, start: Tensor, iterations: int) -> FieldOptimizer:
        """Optimizer of at most ``iterations`` steps from a field ``(B, n, *spatial)`` in voxels."""


def minimize(optimizer: FieldOptimizer, cost: Cost, iterations: int, tolerance: float = 0.0) -> Tensor:
    """Step until the cost converges: ``(B, n, *spatial)`` voxels.

    Steps end when the mean cost of ten iterations is lower than that of the ten before by at most ``tolerance``, a
    fraction of the total decrease. 0: no early stop.
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


def _gradient(cost: Cost, ddf: Tensor) -> tuple[Tensor, Tensor]:
    """Cost of a field and its gradient, both without a graph."""
    ddf = ddf.detach().requires_grad_()
    with torch.enable_grad():
        loss = cost(ddf)
        (gradient,) = torch.autograd.grad(loss, ddf)
    return loss.detach(), gradient


def gaussian(smoothing: float, like: Tensor, reach: int = 0) -> Callable[[Tensor], Tensor]:
    """MONAI's ``GaussianFilter``, in less than half of its time, for fields of one shape ``(B, n, *spatial)``.

    They may be continued by ``reach`` voxels beyond each face.
    """
    if smoothing == 0:
        return lambda field: field
    weights = gaussian_1d(torch.tensor(smoothing, dtype=torch.float64), _TRUNCATED).tolist()
    return partial(multiply_axes, matrices=[filter_matrix(weights, size + 2 * reach, like) for size in like.shape[2:]])


class CompositiveField(Parametrization):
    """Greedy composition ``u <- u ∘ (id - step · G * Adam(G * ∂C/∂u))`` with a Gaussian ``G``.

    The gradient is smoothed, scaled voxel by voxel as in Adam, and added by composition. Smooth updates of less than
    half a voxel do not fold, and neither does their composition, up to discretization. (Greedy composition:
    Christensen et al., IEEE TIP 1996; with Adam: Jena et al., *FireANTs*, 2024.)

    Args:
        smoothing: standard deviation of ``G`` in voxels of the field.
        step: largest update before smoothing, voxels of the field; falls to a tenth over a level.
    """

    def optimizer(self, start: Tensor, iterations: int) -> FieldOptimizer:
        return _CompositionOptimizer(start, gaussian(self.smoothing, start), self.step, iterations)


class _CompositionOptimizer(AdamOptimizer):
    """Adam on an update of a field, which starts at zero in every step."""

    def __init__(self, start: Tensor, smooth: Callable[[Tensor], Tensor], step: float, iterations: int) -> None:
        super().__init__(torch.zeros_like(start), lambda _: self._ddf, step, iterations)
        self._ddf, self._smooth = start, smooth

    def step(self, cost: Cost) -> Tensor:
        loss, gradient = _gradient(cost, self._ddf)
        with torch.no_grad():
            self._parameters.zero_().grad = self._smooth(gradient)
            self._adam.step()
            self._schedule.step()
            self._ddf = compose_ddf(self._ddf, self._smooth(self._parameters))
        return loss


class GreedyField(Parametrization):
    """Greedy composition ``u <- E * (u ∘ (id - step · v / (|v| + m / 2)))`` with Gaussians ``G`` and ``E``.

    ``v = G * ∂C/∂u``, and ``m`` is the 99th percentile of ``|v|``. Unlike Adam's, this update is small where the images
    say little and where they match better than elsewhere; and ``E`` smooths the whole field, so that the cost needs no
    regularization. Affine fields stay as they are. The field has a node at every voxel. (Fluid and elastic smoothing:
    Yushkevich et al., *Greedy*, 2016, which divides all updates by the largest.)

    Args:
        smoothing: standard deviation of ``G`` in voxels.
        step: limit of the updates in voxels; falls to a half over a level.
        field_smoothing: standard deviation of ``E`` in voxels.

    Raises:
        ValueError: also if ``field_smoothing`` is negative or not finite.
    """

    stride = 1

    def __init__(self, smoothing: float = 1.7, step: float = 0.5, field_smoothing: float = 0.5) -> None:
        super().__init__(smoothing, step)
        self.field_smoothing = not_negative("field_smoothing", field_smoothing)

    def optimizer(self, start: Tensor, iterations: int) -> FieldOptimizer:
        return _GreedyOptimizer(start, self, iterations)


class _GreedyOptimizer(FieldOptimizer):
    """Greedy composition of updates with a field, as ``GreedyField`` says."""

    def __init__(self, start: Tensor, model: GreedyField, iterations: int) -> None:
        self._ddf = start
        self._steps = iter(torch.linspace(model.step, _FINAL_GREEDY_STEP_RATIO * model.step, iterations).tolist())
        self._smooth = gaussian(model.smoothing, start)
        self._reach = math.ceil(_TRUNCATED * model.field_smoothing)
        self._smooth_field = gaussian(model.field_smoothing, start, self._reach)
        # The cost is a mean over all voxels. Rounding would move images that are equal.
        self._min_gradient = _MIN_GRADIENT / start[0, 0].numel()

    @property
    def ddf(self) -> Tensor:
        return self._ddf

    def step(self, cost: Cost) -> Tensor:
        loss, gradient = _gradient(cost, self._ddf)
        with torch.no_grad():
            gradient = self._smooth(gradient)
            size = gradient.square().sum(dim=1, keepdim=True).sqrt_()  # `norm` takes sixty times as long
            large = _large(size).clamp_(min=self._min_gradient)
            update = -next(self._steps) * gradient / size.add_(large, alpha=_SATURATION)
            smoothed = self._smooth_field(_continued(compose_ddf(self._ddf, update), self._reach))
            inside = [slice(self._reach, self._reach + length) for length in update.shape[2:]]
            self._ddf = smoothed[(slice(None), slice(None), *inside)]
        return loss


def _continued(field: Tensor, reach: int) -> Tensor:
    """Continue ``(B, n, *spatial)`` by ``reach`` voxels beyond each face, as its reflection in the border's value.

    A filter then leaves affine fields as they are; zeros outside would pull them to zero from the border on.
    """
    dims = field.dim() - 2
    for axis, length in enumerate(field.shape[2:]):
        pad = [0] * (2 * dims)
        pad[2 * (dims - 1 - axis) : 2 * (dims - axis)] = [reach, reach]  # the last axis comes first
        border = F.pad(field, pad, mode="replicate")
        field = border if length <= reach else 2 * border - F.pad(field, pad, mode="reflect")
    return field


def _large(values: Tensor) -> Tensor:
    """99th percentile of each sample of ``(B, 1, *spatial)``, ``(B, 1, ...)``, from at most 200,000 voxels.

    The maximum of a large image is that of a few voxels, beside which all others would count little.
    """
    flat = values.flatten(1)
    some = flat[:, :: flat.shape[1] // _SAMPLE_VOXELS * 2 + 1]
    rank, last = 0.99 * (some.shape[1] - 1), some.shape[1] - 1
    # `quantile`, which sorts all of them, takes many times as long.
    low, high = (some.kthvalue(min(math.floor(rank) + k, last) + 1, dim=1).values for k in (0, 1))
    return low.lerp(high, rank % 1).view(-1, *[1] * (values.dim() - 1))


class StationaryVelocityField(Parametrization):
    """``u = start ∘ exp(G * v)`` with a velocity ``v``, optimized by Adam, and a Gaussian ``G``.

    Diffeomorphic up to discretization.

    Args:
        smoothing: standard deviation of ``G`` in voxels of the field.
        step: step size of Adam, voxels of the field; falls to a tenth over a level.
        squarings: of the exponential, at least 0.
    """

    def __init__(self, smoothing: float = 1.5, step: float = 0.15, squarings: int = 5) -> None:
        super().__init__(smoothing, step)
        self.squarings = whole("squarings", squarings, minimum=0)

    def optimizer(self, start: Tensor, iterations: int) -> FieldOptimizer:
        smooth = gaussian(self.smoothing, start)
        return AdamOptimizer(
            torch.zeros_like(start),
            lambda velocity: compose_ddf(start, integrate_velocity(smooth(velocity), self.squarings)),
            self.step,
            iterations,
        )


class BSplineField(Parametrization):
    """``u = start + Σ c_k β³(x/s - k)`` with control points ``s`` voxels apart, whose ``c`` Adam optimizes.

    (Rueckert et al., IEEE TMI 1999.) Only the cost and the distance of the control points prevent folding.

    Args:
        distance: of the control points, voxels of the field, ``s``, at least 1.
        step: step size of Adam, voxels of the field; falls to a tenth over a level.
    """

    def __init__(self, distance: int = 3, step: float = 0.15) -> None:
        super().__init__(0.0, step)
        self.distance = whole("distance", distance)

    def optimizer(self, start: Tensor, iterations: int) -> FieldOptimizer:
        bases = [spline_basis(size, 1 / self.distance).to(start) for size in start.shape[2:]]
        control = start.new_zeros((*start.shape[:2], *[basis.shape[1] for basis in bases]))
        return AdamOptimizer(control, lambda points: start + spline_values(points, bases), self.step, iterations)
