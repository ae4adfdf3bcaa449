# SPDX-License-Identifier: Apache-2.0
"""Alternating optimizer against one optimizer per group."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from regplugins.engines import AlternatingOptimizer, parameter_groups


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


GROUPS = {"head": ["second.1"], "rest": [""], "first": ["first"]}
RATES = {"head": 0.1, "rest": 0.01, "first": 0.05}


def loss_of(network: nn.Module, number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return network(torch.randn(5, 3, generator=generator)).square().sum()


@pytest.mark.parametrize("kind", [Adam, SGD])
def test_is_the_same_as_one_optimizer_a_group(kind):
    torch.manual_seed(0)
    ours = Parts()
    theirs = copy.deepcopy(ours)
    alternating = AlternatingOptimizer(kind(parameter_groups(ours, GROUPS, RATES)))
    modules = {"head": theirs.second[1], "rest": theirs.second[0], "first": theirs.first}
    several = [kind(modules[name].parameters(), lr=RATES[name]) for name in GROUPS]
    for number in range(8):
        alternating.zero_grad()
        loss_of(ours, number).backward()
        alternating.step()
        for optimizer in several:
            optimizer.zero_grad()
        loss_of(theirs, number).backward()
        several[number % 3].step()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other)


def test_resumed_it_goes_on_with_the_group_whose_turn_it_is():
    torch.manual_seed(0)
    straight = Parts()
    stopped = copy.deepcopy(straight)

    def train(network: nn.Module, optimizer: AlternatingOptimizer, numbers: range) -> None:
        for number in numbers:
            optimizer.zero_grad()
            loss_of(network, number).backward()
            optimizer.step()

    whole = AlternatingOptimizer(Adam(parameter_groups(straight, GROUPS, RATES)))
    train(straight, whole, range(7))
    before = AlternatingOptimizer(Adam(parameter_groups(stopped, GROUPS, RATES)))
    train(stopped, before, range(4))
    after = AlternatingOptimizer(Adam(parameter_groups(stopped, GROUPS, RATES)))
    after.load_state_dict(before.state_dict())
    train(stopped, after, range(4, 7))
    for one, other in zip(straight.parameters(), stopped.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_longest_name_counts():
    network = Parts()
    groups = {group["name"]: group for group in parameter_groups(network, GROUPS, RATES)}
    assert {name: group["lr"] for name, group in groups.items()} == RATES
    assert [p is q for p, q in zip(groups["head"]["params"], network.second[1].parameters(), strict=True)] == [True] * 2
    assert len(groups["rest"]["params"]) == len(groups["first"]["params"]) == 2


@pytest.mark.parametrize(
    ("groups", "rates", "message"),
    [
        ({"a": ["first"]}, {"a": 1.0}, "the parameter 'second.0.weight' is in no group"),
        ({"a": [""], "b": ["third"]}, {"a": 1.0, "b": 1.0}, "no parameter is in the group 'b'"),
        ({"a": [""]}, {"b": 1.0}, r"expected a rate for each of the groups \['a'\], got \['b'\]"),
    ],
)
def test_groups_that_do_not_fit(groups, rates, message):
    with pytest.raises(ValueError, match=message):
        parameter_groups(Parts(), groups, rates)
