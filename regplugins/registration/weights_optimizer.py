# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair by training a network on it ("registering is training", Li and Fan, ISBI 2018)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from regplugins.checks import whole
from regplugins.networks import RegistrationNetwork
from regplugins.registration.image_pair import ImagePair
from regplugins.spatial import crop, pad_to_multiple


class WeightsOptimizer:
    """Train a copy of a network on one pair.

    Args:
        network: with trained or random weights; not changed.
        objective: loss ``(fields, target) -> scalar``, as in training.
        batch_statistics: normalize batches by the pair's own statistics, for the returned field too (random weights).
            False: by the trained running statistics, which stay unchanged.
        iterations: of Adam.
        learning_rate: of Adam.
        passes: of the network, see ``RegistrationNetwork.fields_of_passes``.

    Raises:
        ValueError: if ``iterations`` or ``passes`` is not a whole number of at least 1.
    """

    def __init__(
        self,
        network: RegistrationNetwork,
        objective: nn.Module,
        batch_statistics: bool = False,
        iterations: int = 40,
        learning_rate: float = 3e-4,
        passes: int = 1,
    ) -> None:
        self.network = network
        self.objective = objective
        self.batch_statistics = batch_statistics
        self.iterations = whole("iterations", iterations)
        self.learning_rate = learning_rate
        self.passes = whole("passes", passes)

    def __call__(
        self, pair: Tensor, start: Tensor, fixed_mask: Tensor | None = None, moving_mask: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            pair: ``(B, 2, *spatial)``, moving and fixed image, float32 or float64.
            start: its shape is that of the result.
            fixed_mask: ``(B, 1, *spatial)``; the objective counts where both masks are not zero.
            moving_mask: likewise, of the moving image.

        Returns:
            ``(B, n, *spatial)`` displacement in voxels.
        """
        network = copy.deepcopy(self.network).train(self.batch_statistics)
        padded = pad_to_multiple(pair, network.stride)
        fixed_mask = torch.ones_like(pair[:, :1]) if fixed_mask is None else fixed_mask
        masks = [
            None if mask is None else pad_to_multiple(mask, network.stride, mode="constant")
            for mask in (moving_mask, fixed_mask)
        ]
        images = ImagePair.of(padded, *masks)
        target = {"moving": images.moving, "fixed": images.fixed}
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.iterations):
                optimizer.zero_grad()
                fields = network.fields_of_passes(padded, self.passes)
                self.objective(fields, {**target, "mask": images.mask(fields[0])}).backward()
                optimizer.step()
        with torch.no_grad():
            return crop(network.fields_of_passes(padded, self.passes)[0], list(start.shape[2:]))
