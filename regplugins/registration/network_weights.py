# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair by training a network on it ("registering is training", Li and Fan, ISBI 2018)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from regplugins.networks import RegistrationNetwork
from regplugins.spatial import crop, pad_to_multiple


class WeightsOptimizer:
    """Train a copy of a network on the one pair, from trained or from random weights.

    Batch normalization: with trained weights its running statistics stay as they are (eval mode); with random ones,
    which have none, the pair's own statistics are used (train mode), for the returned field too.

    Args:
        network: where to start from; not changed.
        objective: loss ``(fields, target) -> scalar``, as in training.
        batch_statistics: normalize by the pair's own statistics.
        iterations: of Adam.
        learning_rate: of Adam.

    Raises:
        ValueError: fewer than one iteration.
    """

    def __init__(
        self,
        network: RegistrationNetwork,
        objective: nn.Module,
        batch_statistics: bool = False,
        iterations: int = 40,
        learning_rate: float = 3e-4,
    ) -> None:
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.network = network
        self.objective = objective
        self.batch_statistics = batch_statistics
        self.iterations = iterations
        self.learning_rate = learning_rate

    def __call__(self, pair: Tensor, start: Tensor) -> Tensor:
        """
        Args:
            pair: ``(B, 2, *spatial)``, moving and fixed image.
            start: ``(B, n, *spatial)`` the network's own field in voxels; only its size is looked at.

        Returns:
            ``(B, n, *spatial)`` displacement in voxels.
        """
        network = copy.deepcopy(self.network).train(self.batch_statistics)
        padded = pad_to_multiple(pair, network.stride)
        mask = pad_to_multiple(torch.ones_like(pair[:, :1]), network.stride, mode="constant")
        target = {"moving": padded[:, :1], "fixed": padded[:, 1:], "mask": mask}
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.iterations):
                optimizer.zero_grad()
                self.objective(network.fields(padded), target).backward()
                optimizer.step()
        with torch.no_grad():
            return crop(network(padded), list(start.shape[2:]))
