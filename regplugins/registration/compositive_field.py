# SPDX-License-Identifier: Apache-2.0
"""A displacement field that is improved by composing it with small smooth updates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR

from regplugins.registration.parametrization import EPSILON, LAST_STEP, Cost, Descent, Parametrization, gaussian
from regplugins.spatial import compose_ddf


class CompositiveField(Parametrization):
    """``u <- u ∘ (id - step · G * Adam(G * ∂C/∂u))``, ``G`` a Gaussian: a gradient that is smooth (Sobolev), scaled
    voxel by voxel as Adam does, and added by composition.

    An update of less than half a voxel that is smooth over some voxels does not fold, nor does what they compose to,
    but for discretization; no velocity is integrated for it. (Greedy composition: Christensen et al., IEEE TIP 1996;
    with Adam: Jena et al., *FireANTs*, 2024.)

    Args:
        smoothing: standard deviation of ``G`` in voxels of the field.
        step: how far an iteration moves at most, in voxels of the field, before ``G``; it shrinks to a tenth in the
            course of a level.

    Raises:
        ValueError: a step that is not positive, or a negative smoothing.
    """

    def begin(self, start: Tensor, iterations: int) -> Descent:
        return _Composition(start, gaussian(self.smoothing, start), self.step, iterations)


class _Composition(Descent):
    def __init__(self, start: Tensor, smooth: nn.Module, step: float, iterations: int) -> None:
        self._ddf = start
        self._smooth = smooth
        self._update = torch.zeros_like(start)
        self._adam = torch.optim.Adam([self._update], lr=step, eps=EPSILON)
        self._schedule = LinearLR(self._adam, 1.0, LAST_STEP, iterations)

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
