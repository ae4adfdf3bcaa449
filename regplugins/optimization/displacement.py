# SPDX-License-Identifier: Apache-2.0
"""A displacement field that is improved by composing it with small smooth updates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.networks.layers import GaussianFilter
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from regplugins.spatial import compose

# What is left of the step at the end of a level.
_LAST_STEP = 0.1
# Adam's own 1e-8 would be felt: of a mean over millions of voxels, the gradient at one is not much larger.
_EPSILON = 1e-12


class Displacement:
    """``u <- u ∘ (id - step · G * Adam(G * ∂C/∂u))``, ``G`` a Gaussian: a gradient that is smooth (Sobolev), scaled
    voxel by voxel as Adam does, and added by composition.

    An update of less than half a voxel that is smooth over some voxels does not fold, nor does what they compose to,
    but for discretisation; no velocity is integrated for it. (Greedy composition: Christensen et al., IEEE TIP 1996;
    with Adam: Jena et al., *FireANTs*, 2024.)

    Args:
        smoothing: standard deviation of ``G`` in voxels of the field.
        step: how far an iteration moves at most, in voxels of the field, before ``G``; it shrinks to a tenth in the
            course of a level.

    Raises:
        ValueError: a step that is not positive, or a negative smoothing.
    """

    def __init__(self, smoothing: float = 1.5, step: float = 0.15) -> None:
        if smoothing < 0 or step <= 0:
            raise ValueError(f"smoothing must not be negative and step positive, got {smoothing} and {step}")
        self.smoothing = smoothing
        self.step = step

    def improve(self, start: Tensor, cost: Callable[[Tensor], Tensor], iterations: int) -> Tensor:
        """Lower a cost.

        Args:
            start: ``(B, n, *spatial)`` voxels.
            cost: of such a field, a scalar.
            iterations: how many steps to take.

        Returns:
            ``(B, n, *spatial)`` voxels.
        """
        smooth = GaussianFilter(start.dim() - 2, self.smoothing).to(start) if self.smoothing else torch.nn.Identity()
        ddf, update = start, torch.zeros_like(start)
        adam = torch.optim.Adam([update], lr=self.step, eps=_EPSILON)
        schedule = LinearLR(adam, 1.0, _LAST_STEP, iterations)
        for _ in range(iterations):
            ddf = ddf.detach().requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(cost(ddf), ddf)
            with torch.no_grad():
                update.zero_().grad = smooth(gradient)
                adam.step()
                schedule.step()
                ddf = compose(ddf, smooth(update))
        return ddf
