# SPDX-License-Identifier: Apache-2.0
"""What stands between MONAI's engines and a registration network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from regplugins.checks import boolean
from regplugins.networks import RegistrationNetwork


class FieldsModule(nn.Module):
    """A network whose ``forward`` gives its ``fields``: what a training loss needs, and what DistributedDataParallel
    hooks.

    Args:
        network: registration network; checkpoints hold this one.
        amp: compute convolutions in bfloat16, on GPUs and CPUs alike (MONAI's trainers know CUDA only). No loss scaling
            is needed.

    Raises:
        TypeError: ``amp`` is no boolean.
    """

    def __init__(self, network: RegistrationNetwork, amp: bool = False) -> None:
        super().__init__()
        self.network = network
        self.amp = boolean("amp", amp)

    def forward(self, pair: Tensor) -> Any:
        with torch.autocast(pair.device.type, torch.bfloat16, enabled=self.amp):
            return self.network.fields(pair)


def prepare_training_batch(
    batch: Mapping[str, Tensor], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """MONAI ``prepare_batch`` of a trainer.

    Args:
        batch: collated items of a ``PairDataset``.
        device: where to compute.
        non_blocking: of the copy.

    Returns:
        The network's input ``(B, 2, *spatial)``, and the loss's target: the batch with ``mask`` for ``fixed_mask``.
    """
    target = {key: value.to(device, non_blocking=non_blocking, **kwargs) for key, value in batch.items()}
    if "fixed_mask" in target:
        target["mask"] = target.pop("fixed_mask")
    return torch.cat([target["moving"], target["fixed"]], dim=1), target


def negative_loss(objective: nn.Module) -> Callable[[Mapping[str, Any]], float]:
    """Minus the objective, of an evaluator's output: what validation looks at where there is nothing better.

    Args:
        objective: loss ``(fields, target) -> scalar``, as in training.
    """

    def score(output: Mapping[str, Any]) -> float:
        return -float(objective(output["pred"], output["label"]))

    return score


class HasTerms(Protocol):
    """An objective that tells its terms apart."""

    def terms(self, fields: Any) -> Mapping[str, Tensor]:
        """Every term by name, not weighted: scalars."""


def loss_terms(objective: HasTerms) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    """Every term of an objective, not weighted, of a trainer's output: for a curve of each.

    Args:
        objective: as in training.
    """

    @torch.no_grad()
    def terms(output: Mapping[str, Any]) -> dict[str, float]:
        return {name: float(value) for name, value in objective.terms(output["pred"]).items()}

    return terms


def batch_minimum(names: Sequence[str]) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    """The least values of a batch, of a trainer's output: whether determinants collapse, say.

    Args:
        names: of fields that the network gives.
    """

    @torch.no_grad()
    def values(output: Mapping[str, Any]) -> dict[str, float]:
        return {name: float(output["pred"][name].min()) for name in names}

    return values


def prepare_pair(
    batch: dict[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, None, tuple[()], dict[str, Tensor]]:
    """MONAI ``prepare_batch`` of an evaluator that registers one pair at a time.

    Args:
        batch: what ``ResamplePaird`` made of a record.
        device: where to compute.
        non_blocking: of the copy.

    Returns:
        The network's input ``(1, 2, *spatial)``; no target; and for the inferer no further arguments but ``masks``.
    """
    batch["started"] = time.perf_counter()
    pair = batch["pair"][None].to(device, non_blocking=non_blocking, **kwargs)
    return pair, None, (), {name: mask.to(pair) for name, mask in batch["masks"].items()}


def prepare_rigid_pair(
    batch: dict[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, None, tuple[dict[str, Any]], dict[str, Any]]:
    """MONAI ``prepare_batch`` of an evaluator with a ``RigidInferer``, which needs the pair itself.

    Args:
        batch: pair after ``ResamplePaird``.
        device: where to compute.
        non_blocking: of the copy.

    Returns:
        The network's input ``(1, 2, *spatial)``; no target; the pair; no keyword arguments.
    """
    return batch["pair"][None].to(device, non_blocking=non_blocking, **kwargs), None, (batch,), {}


def single_pair(batch: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate function of a loader with batch size one: pairs have grids of their own and are not stacked.

    Raises:
        ValueError: another batch size.
    """
    if len(batch) != 1:
        raise ValueError(f"pairs are registered one at a time, got a batch of {len(batch)}")
    return batch[0]
