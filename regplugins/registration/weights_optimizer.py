# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair by training a network on it ("registering is training", Li and Fan, ISBI 2018)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from regplugins.checks import whole
from regplugins.networks import RegistrationNetwork
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

    def __call__(self, pair: Tensor, start: Tensor) -> Tensor:
        """Displacement ``(B, n, *spatial)`` in voxels of a pair ``(B, 2, *spatial)``; ``start`` gives its shape."""
        network = copy.deepcopy(self.network).train(self.batch_statistics)
        padded = pad_to_multiple(pair, network.stride)
        mask = pad_to_multiple(torch.ones_like(pair[:, :1]), network.stride, mode="constant")
        target = {"moving": padded[:, :1], "fixed": padded[:, 1:], "mask": mask}
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.iterations):
                optimizer.zero_grad()
                self.objective(network.fields_of_passes(padded, self.passes), target).backward()
                optimizer.step()
        with torch.no_grad():
            return crop(network.fields_of_passes(padded, self.passes)[0], list(start.shape[2:]))
