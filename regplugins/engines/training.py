# SPDX-License-Identifier: Apache-2.0
"""Adapters between MONAI's engines and registration networks: batches, losses and scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regplugins.checks import boolean, whole
from regplugins.networks import RegistrationNetwork


class FieldsModule(nn.Module):
    """Network whose ``forward`` returns the fields of a registration network, for losses and for DDP.

    Args:
        network: registration network; its state goes into checkpoints.
        amp: compute convolutions in bfloat16, on GPUs and CPUs (MONAI's trainers support CUDA only). bfloat16 needs no
            loss scaling.
        passes: number of passes with the same weights. The fields are those of ``fields_of_passes``: the loss is that
            of the composed field.

    Raises:
        ValueError: in ``forward``, if a value is not finite.
    """

    def __init__(self, network: RegistrationNetwork, amp: bool = False, passes: int = 1) -> None:
        super().__init__()
        self.network = network
        self.amp = boolean("amp", amp)
        self.passes = whole("passes", passes)

    def forward(self, pair: Tensor) -> Any:
        with torch.autocast(pair.device.type, torch.bfloat16, enabled=self.amp):
            fields = self.network.fields_of_passes(pair, self.passes)
        values = fields.values() if isinstance(fields, Mapping) else [fields] if isinstance(fields, Tensor) else fields
        # Their gradient would end the process: PyTorch's of a 2-D ``grid_sample`` on a CPU.
        if not all(value.isfinite().all() for value in values):
            raise ValueError("training diverged: the network gives values that are not finite; lower the learning rate")
        return fields


def prepare_training_batch(
    batch: Mapping[str, Tensor], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """MONAI ``prepare_batch`` of a trainer, for collated items of a ``PairDataset``.

    Returns:
        Network input ``(B, 2, *spatial)``, and loss target: the batch with ``fixed_mask`` renamed to ``mask``.
    """
    target = {key: value.to(device, non_blocking=non_blocking, **kwargs) for key, value in batch.items()}
    if "fixed_mask" in target:
        target["mask"] = target.pop("fixed_mask")
    return torch.cat([target["moving"], target["fixed"]], dim=1), target


def negative_loss(objective: nn.Module) -> Callable[[Mapping[str, Any]], float]:
    """Validation score of an evaluator's output: the negative training loss ``(fields, target) -> scalar``."""

    def score(output: Mapping[str, Any]) -> float:
        return -float(objective(output["pred"], output["label"]))

    return score


def loss_terms(objective: Any) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    """Unweighted terms by name, ``objective.terms(fields)``, of a trainer's output, for curves."""

    @torch.no_grad()
    def terms(output: Mapping[str, Any]) -> dict[str, float]:
        return {name: float(value) for name, value in objective.terms(output["pred"]).items()}

    return terms


def batch_minimum(names: Sequence[str]) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    """Minima of the named network outputs over a batch, of a trainer's output, for curves of determinants."""

    @torch.no_grad()
    def values(output: Mapping[str, Any]) -> dict[str, float]:
        return {name: float(output["pred"][name].min()) for name in names}

    return values


def prepare_pair(
    batch: dict[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, None, tuple[()], dict[str, Any]]:
    """MONAI ``prepare_batch`` of an evaluator that registers one pair of ``ResamplePaird`` at a time.

    Returns:
        Network input ``(1, 2, *spatial)``, no target, no positional arguments of the inferer, and ``masks`` and, of
        ``ChoosePresetd``, ``chosen``.
    """
    batch["started"] = time.perf_counter()
    pair = batch["pair"][None].to(device, non_blocking=non_blocking, **kwargs)
    options: dict[str, Any] = {name: mask.to(pair) for name, mask in batch["masks"].items()}
    if "preset" in batch.get("chosen", {}):
        options["chosen"] = batch["chosen"]
    return pair, None, (), options


def prepare_rigid_pair(
    batch: dict[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, None, tuple[dict[str, Any]], dict[str, Any]]:
    """MONAI ``prepare_batch`` like ``prepare_pair``, for a ``RigidInferer``: the pair is its positional argument."""
    return batch["pair"][None].to(device, non_blocking=non_blocking, **kwargs), None, (batch,), {}


def collate_single_pair(batch: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate function that refuses another batch size than one, since pairs have different grids."""
    if len(batch) != 1:
        raise ValueError(f"pairs are registered one at a time, got a batch of {len(batch)}")
    return batch[0]
