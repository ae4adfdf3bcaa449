# SPDX-License-Identifier: Apache-2.0
"""Distributed training and inference with processes of ``torchrun``."""

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
    """Initialize the process group, NCCL on GPUs and gloo on CPUs, and mute all ranks but the first.

    Raises:
        RuntimeError: if the process was not started by ``torchrun``.
    """
    if "LOCAL_RANK" not in os.environ:
        raise RuntimeError("start the multi_gpu configurations with: torchrun --nproc_per_node=N -m monai.bundle run …")
    device = process_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, world_size = next(dist.rendezvous("env://"))
    # Processes that torchrun restarts must not find addresses of an earlier attempt.
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
    """Batch size of each process.

    Raises:
        ValueError: if ``batch_size`` is not a multiple of the number of processes.
    """
    processes = dist.get_world_size()
    if batch_size % processes:
        raise ValueError(f"batch_size must be a multiple of the number of processes, {processes}, got {batch_size}")
    return batch_size // processes


class SharedLoss(nn.Module):
    """Objective with the mean over all processes as its value, and the gradient of this process's part of the batch.

    DistributedDataParallel averages the gradients.
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
    """Synchronize a network's batch normalizations over all processes, in place; their states keep their names.

    PyTorch supports GPUs only: on CPUs each process normalizes by its own part of the batch.
    """
    return nn.SyncBatchNorm.convert_sync_batchnorm(network) if device.type == "cuda" else network
