# SPDX-License-Identifier: Apache-2.0
"""Checks of what comes from a command line."""

from __future__ import annotations

import pytest

from regplugins.checks import boolean, choice, first_cause, number


@pytest.mark.parametrize("value", ["true", "False", 0, 1, None, 1.0])
def test_only_booleans_are_booleans(value: object) -> None:
    with pytest.raises(TypeError, match="amp must be True or False"):
        boolean("amp", value)
    assert boolean("amp", True) is True


def test_numbers_are_numbers() -> None:
    assert number("fill", "-1024") == number("fill", -1024) == -1024.0
    with pytest.raises(ValueError, match="fill must be a number, got 'abc'"):
        number("fill", "abc")


def test_choice_lists_what_there_is() -> None:
    assert choice("refine", "field", {"field": 1, "weights": 2}) == 1
    with pytest.raises(ValueError, match=r"refine must be one of \['field', 'weights'\], got 'fast'"):
        choice("refine", "fast", {"field": 1, "weights": 2})


def test_first_cause_is_the_users_mistake() -> None:
    mistake = ValueError("a.nii.gz: 4-D")
    mistake.__cause__ = KeyError("deeper than anyone wants to know")
    wrapped: BaseException = mistake
    for _ in range(3):
        outer = RuntimeError("applying transform")
        outer.__cause__ = wrapped
        wrapped = outer
    assert first_cause(wrapped) is mistake
    alone = RuntimeError("nothing below")
    assert first_cause(alone) is alone
