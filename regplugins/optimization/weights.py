# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair by training a network on it ("registering is training", Li and Fan, ISBI 2018)."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightsOptimizer:
    """Train a copy of a network on the one pair, from trained or from random weights.

    Batch normalisation: with trained weights its running statistics stay as they are (eval mode); with random ones, which have none, the
    pair's own statistics are used (train mode), for the returned field too.

    Args:
        network: where to start from; not changed.
        objective: loss ``(fields, target) -> scalar``, as in training.
        batch_statistics: normalise by the pair's own statistics.
        iterations: of Adam.
        learning_rate: of Adam.

    Raises:
        ValueError: fewer than one iteration.
    """

    def __init__(
        self,
        network: nn.Module,
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
        stride = network.stride
        padding = [amount for size in reversed(pair.shape[2:]) for amount in (0, -size % stride)]
        padded = F.pad(pair, padding, mode="replicate")
        mask = F.pad(torch.ones_like(pair[:, :1]), padding)
        target = {"moving": padded[:, :1], "fixed": padded[:, 1:], "mask": mask}
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.iterations):
                optimizer.zero_grad()
                self.objective(network.fields(padded), target).backward()
                optimizer.step()
        with torch.no_grad():
            return network(padded)[(..., *[slice(size) for size in start.shape[2:]])]
