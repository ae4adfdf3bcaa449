# SPDX-License-Identifier: Apache-2.0
"""Groups of parameters that learn one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer


def parameter_groups(
    network: nn.Module, groups: Mapping[str, Sequence[str]], rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """A network's parameters in groups, for an optimizer.

    Args:
        network: what learns.
        groups: names of submodules by name of a group; of every parameter the longest name that it begins with counts,
            and ``""`` takes what is left.
        rates: learning rate of each group.

    Raises:
        ValueError: a parameter is in no group, a group is empty, or groups and rates do not belong together.
    """
    if set(groups) != set(rates):
        raise ValueError(f"groups {sorted(groups)} and rates {sorted(rates)} do not belong together")
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
    """An optimizer of which one group of parameters steps at a time, in order: as one optimizer a group would, one in
    each iteration.

    Stands for the optimizer in a trainer; learning rate schedules take the one inside. Its state says whose turn it is,
    so that a resumed training goes on with the right group.

    Args:
        optimizer: with one or more groups; what it keeps of a parameter must not change where that has no gradient, as
            of torch's own.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.turn = 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the optimizer."""
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> Any:
        """One step of the group whose turn it is."""
        for number, group in enumerate(self.param_groups):
            if number != self.turn:
                for parameter in group["params"]:
                    parameter.grad = None
        result = self.optimizer.step(closure)
        self.turn = (self.turn + 1) % len(self.param_groups)
        return result

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "turn": self.turn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.turn = state["turn"]
