# SPDX-License-Identifier: Apache-2.0
"""Alternating optimization of parameter groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer


def parameter_groups(
    network: nn.Module, groups: Mapping[str, Sequence[str]], rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Split a network's parameters into groups for an optimizer.

    Args:
        network: whose parameters are split.
        groups: names of submodules by group. The longest matching name decides; ``""`` matches all parameters.
        rates: learning rate of each group.

    Raises:
        ValueError: if a parameter is in no group, a group is empty, or ``rates`` has other groups.
    """
    if set(groups) != set(rates):
        raise ValueError(f"expected a rate for each of the groups {sorted(groups)}, got {sorted(rates)}")
    owners = {prefix: group for group, prefixes in groups.items() for prefix in prefixes}
    parameters: dict[str, list[nn.Parameter]] = {group: [] for group in groups}
    for name, parameter in network.named_parameters():
        fitting = [prefix for prefix in owners if prefix == "" or name == prefix or name.startswith(f"{prefix}.")]
        if not fitting:
            raise ValueError(f"the parameter '{name}' is in no group")
        parameters[owners[max(fitting, key=len)]].append(parameter)
    for group, members in parameters.items():
        if not members:
            raise ValueError(f"no parameter is in the group '{group}'")
    return [{"name": group, "params": members, "lr": rates[group]} for group, members in parameters.items()]


class AlternatingOptimizer:
    """Optimizer that updates one parameter group per iteration, in turn.

    It replaces the optimizer in a trainer; learning rate schedules take the inner one, which must skip parameters
    without gradient, as torch's optimizers do. Its state includes the next group, for resumed training.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.next_group = 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        """Update the next group."""
        for number, group in enumerate(self.param_groups):
            if number != self.next_group:
                for parameter in group["params"]:
                    parameter.grad = None
        result = self.optimizer.step(closure)
        self.next_group = (self.next_group + 1) % len(self.param_groups)
        return result

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "next_group": self.next_group}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.next_group = state["next_group"]
