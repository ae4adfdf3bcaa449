# SPDX-License-Identifier: Apache-2.0
"""Checks of what comes from a command line."""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import monai.bundle
import pytest
import torch

from regplugins.checks import (
    boolean,
    choice,
    device,
    error_line,
    explain_errors,
    first_cause,
    not_negative,
    number,
    positive,
    refuse_unknown_options,
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
    for value in (float("inf"), "nan"):
        with pytest.raises(ValueError, match=f"fill must be finite, got '?{value}"):
            number("fill", value)


def test_signs_of_numbers() -> None:
    assert positive("step", "0.5") == 0.5
    assert not_negative("weight", 0) == 0
    for check, value in ((positive, 0), (positive, -1), (not_negative, -0.1)):
        with pytest.raises(ValueError, match=f"size must (be positive|not be negative), got {value}"):
            check("size", value)


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
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
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
def test_an_error_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_line(error) == line
    wrapped = RuntimeError("applying transform")
    wrapped.__cause__ = error
    hook = sys.excepthook
    try:
        explain_errors()
        sys.excepthook(RuntimeError, wrapped, None)
    finally:
        sys.excepthook = hook
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {line}"


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


class TestUnknownOptions:
    PROGRAM = str(Path(monai.bundle.__file__).with_name("__main__.py"))

    @pytest.fixture
    def configs(self, tmp_path):
        for name, content in (
            ("inference", {"fixed": None, "network_def": {"channels": 2}}),
            ("refine", {"levels": 1}),
        ):
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return [str(tmp_path / f"{name}.json") for name in ("inference", "refine")]

    def run(self, configs, *words: str) -> None:
        refuse_unknown_options([self.PROGRAM, "run", "--config_file", str(configs), *words])

    def test_what_configs_and_monai_know_passes(self, configs):
        self.run(configs[0], "--fixed", "a.nii", "--network_def#channels", "3", "--run_id=run", "--meta_file", "m.json")
        self.run(configs, "--fixed=a.nii", "--levels", "[[8, 1]]", "--nolevels", "--network_def::channels", "-3")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--fixd", "a.nii"], "unknown option --fixd; did you mean --fixed"),
            (["--fixd=a.nii"], "unknown option --fixd; did you mean --fixed"),
            (["--fixed", "a.nii", "--levels", "3"], "unknown option --levels$"),  # of a config that is not laid over
            (["--network_de#channels", "3"], "unknown option --network_de#channels; did you mean --network_def"),
            (["--xyz"], "unknown option --xyz$"),
        ],
    )
    def test_what_none_knows_is_refused(self, configs, words, message):
        with pytest.raises(ValueError, match=message):
            self.run(configs[0], *words)

    def test_options_from_a_file(self, configs, tmp_path):
        (tmp_path / "args.json").write_text(
            json.dumps({"config_file": configs[0], "fixed": "a.nii", "moving": "b.nii"})
        )
        with pytest.raises(ValueError, match="unknown option --moving"):
            refuse_unknown_options([self.PROGRAM, "run", "--args_file", str(tmp_path / "args.json")])

    def test_other_programs_are_left_alone(self, configs):
        refuse_unknown_options(["pytest", "run", "--config_file", configs[0], "--fixd", "a"])
        refuse_unknown_options([self.PROGRAM, "verify_metadata", "--config_file", configs[0], "--fixd", "a"])
