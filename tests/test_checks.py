# SPDX-License-Identifier: Apache-2.0
"""Checks of values from a command line, and the line that explains an error."""

import errno
import re
from collections.abc import Callable

import pytest
import torch

from regplugins.checks import (
    boolean,
    choice,
    device,
    did_you_mean,
    error_line,
    first_cause,
    not_negative,
    number,
    positive,
    whole,
)


@pytest.mark.parametrize("value", ["true", "False", 0, 1, None, 1.0])
def test_only_booleans_are_booleans(value: object) -> None:
    with pytest.raises(TypeError, match="amp must be True or False"):
        boolean("amp", value)
    assert boolean("amp", True) is True


def test_numbers_are_numbers() -> None:
    assert number("fill", "-1024") == number("fill", -1024) == -1024.0
    with pytest.raises(ValueError, match="fill must be a number, got 'abc'"):
        number("fill", "abc")
    for value in (float("inf"), "nan", "1e39"):
        with pytest.raises(ValueError, match=f"fill must be finite in single precision, got '?{value}"):
            number("fill", value)


def test_signs_of_numbers() -> None:
    assert positive("step", "0.5") == 0.5
    assert not_negative("weight", 0) == 0
    for check, value in ((positive, 0), (positive, -1), (not_negative, -0.1)):
        with pytest.raises(ValueError, match=f"size must (be positive|not be negative), got {value}"):
            check("size", value)


def test_whole_numbers() -> None:
    assert whole("passes", 3) == 3 and whole("passes", 0, 0) == 0
    for value in (0, 1.5, "x"):
        with pytest.raises(ValueError, match=f"passes must be a whole number of at least 1, got '?{value}"):
            whole("passes", value)


@pytest.mark.parametrize("check", [number, positive, not_negative, whole])
@pytest.mark.parametrize("value", [True, False])
def test_booleans_are_no_numbers(check: Callable[[str, object], object], value: bool) -> None:
    with pytest.raises(ValueError, match=f"spacing must be a (whole )?number.*, got {value}"):
        check("spacing", value)


@pytest.mark.parametrize("value", ["tpu", "cuda:x", "", None, [1], 1.5])
def test_what_is_no_device(value: object) -> None:
    with pytest.raises(
        ValueError, match=r"device must be 'cpu', 'cuda' or 'cuda:<number>', got " + re.escape(repr(value))
    ):
        device(value)
    assert device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "meta"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"device '{name}' is not available here; choose another, such as --device cpu"
    ):
        device(name)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a.nii.gz: 4-D"), "a.nii.gz: 4-D"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/warped.nii.gz"),
            "out/warped.nii.gz: No space left on device",
        ),
        (FileNotFoundError("a.nii: no such file"), "a.nii: no such file"),
        (ValueError("x\ny\x1b[31m.mat: no such file"), r"x\ny\x1b[31m.mat: no such file"),
    ],
)
def test_an_error_is_one_line(error: Exception, line: str) -> None:
    assert error_line(error) == line
    wrapped = RuntimeError("applying transform")
    wrapped.__cause__ = error
    assert error_line(wrapped) == line


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


def test_a_similar_option_is_suggested() -> None:
    assert did_you_mean("fil", ["fixed", "fill"]) == "; did you mean --fill?"
    assert did_you_mean("xyz", ["fixed", "fill"]) == ""
