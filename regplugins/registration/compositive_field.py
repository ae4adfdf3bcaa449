# SPDX-License-Identifier: Apache-2.0
"""Displacement field that is optimized by composition with small smooth updates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regplugins.registration.parametrization import Cost, FieldOptimizer, Parametrization, adam, gaussian
from regplugins.spatial import compose_ddf


class CompositiveField(Parametrization):
    """Greedy composition ``u <- u ∘ (id - step · G * Adam(G * ∂C/∂u))`` with a Gaussian ``G``.

    The gradient is smoothed, scaled voxel by voxel as in Adam, and added by composition. Smooth updates of less than
    half a voxel do not fold, and neither does their composition, up to discretization.
    (Greedy composition: Christensen et al., IEEE TIP 1996;
    with Adam: Jena et al., *FireANTs*, 2024.)

    Args:
        smoothing: standard deviation of ``G`` in voxels of the field.
        step: largest update before smoothing, voxels of the field; falls to a tenth over a level.

    Raises:
        ValueError: if ``step`` is not positive, or ``smoothing`` is negative.
    """

    def optimizer(self, start: Tensor, iterations: int) -> FieldOptimizer:
        return _CompositionOptimizer(start, gaussian(self.smoothing, start), self.step, iterations)


class _CompositionOptimizer(FieldOptimizer):
    def __init__(self, start: Tensor, smooth: nn.Module, step: float, iterations: int) -> None:
        self._ddf = start
        self._smooth = smooth
        self._update = torch.zeros_like(start)
        self._adam, self._schedule = adam(self._update, step, iterations)

    @property
    def ddf(self) -> Tensor:
        return self._ddf

    def step(self, cost: Cost) -> Tensor:
        ddf = self._ddf.detach().requires_grad_()
        with torch.enable_grad():
            loss = cost(ddf)
            (gradient,) = torch.autograd.grad(loss, ddf)
        with torch.no_grad():
            self._update.zero_().grad = self._smooth(gradient)
            self._adam.step()
            self._schedule.step()
            self._ddf = compose_ddf(ddf, self._smooth(self._update))
        return loss.detach()
