# SPDX-License-Identifier: Apache-2.0
"""Several processes, as ``torchrun`` starts them."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def process_device() -> torch.device:
    """The GPU of this process (``LOCAL_RANK``), or the CPU where there is none."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")


def init_distributed() -> None:
    """Join the other processes: NCCL between GPUs, gloo between CPUs. Only the first one goes on logging.

    Raises:
        RuntimeError: not started by ``torchrun``.
    """
    if "LOCAL_RANK" not in os.environ:
        raise RuntimeError(
            "the multi_gpu configurations want to be started by: torchrun --nproc_per_node=N -m monai.bundle run …"
        )
    device = process_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, world_size = next(dist.rendezvous("env://"))
    # What torchrun starts again after a death must not look for the addresses of those that are gone.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore(f"attempt_{attempt}", store),
        rank=rank,
        world_size=world_size,
    )
    if dist.get_rank() != 0:
        logging.disable(logging.INFO)


def per_rank_batch_size(batch_size: int) -> int:
    """How much of a batch each process takes.

    Raises:
        ValueError: they cannot share it evenly.
    """
    processes = dist.get_world_size()
    if batch_size % processes:
        raise ValueError(f"batch_size {batch_size} cannot be shared by {processes} processes; give a multiple of that")
    return batch_size // processes


class SharedLoss(nn.Module):
    """A loss whose value is the mean over all processes, what one with the whole batch has; its derivative is that of
    this process's part, which DistributedDataParallel averages.

    Args:
        objective: the loss of a part.
    """

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, fields: Any, target: Any) -> Tensor:
        loss: Tensor = self.objective(fields, target)
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        return loss + (mean / dist.get_world_size() - loss.detach())


def convert_sync_batchnorm(network: nn.Module, device: torch.device) -> nn.Module:
    """Let a network's batch normalizations share their statistics over all processes.

    PyTorch has that on GPUs only: on CPUs each process normalizes by its own part of the batch, and training differs
    from that by one process.

    Args:
        network: changed in place; parameters and names of its state stay.
        device: of this process.

    Returns:
        The network.
    """
    return nn.SyncBatchNorm.convert_sync_batchnorm(network) if device.type == "cuda" else network
