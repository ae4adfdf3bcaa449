# SPDX-License-Identifier: Apache-2.0
"""Checks of values that come from a command line."""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import monai.bundle
import torch
from monai.bundle import ConfigParser


def boolean(name: str, value: Any) -> bool:
    """``value``, if it is a boolean: python-fire hands ``true`` and ``false`` over as strings, and both would count as
    true.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def number(name: str, value: Any) -> float:
    """``value`` as a finite number; a boolean is none.

    Raises:
        ValueError: it is none.
    """
    try:
        result = float("boolean" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be a number, got {value!r}") from error
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return result


def positive(name: str, value: Any) -> float:
    """``value`` as a finite number greater than 0.

    Raises:
        ValueError: it is none.
    """
    result = number(name, value)
    if result <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return result


def not_negative(name: str, value: Any) -> float:
    """``value`` as a finite number of at least 0.

    Raises:
        ValueError: it is none.
    """
    result = number(name, value)
    if result < 0:
        raise ValueError(f"{name} must not be negative, got {value!r}")
    return result


def whole(name: str, value: Any, minimum: int = 1) -> int:
    """``value`` as a whole number: an integer, or a text of digits.

    Raises:
        ValueError: it is none, or too small.
    """
    digits = isinstance(value, str) and value.isdecimal()
    if not (digits or (isinstance(value, int) and not isinstance(value, bool))) or int(value) < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
    return int(value)


def choice(name: str, value: Any, options: Mapping[str, Any]) -> Any:
    """What ``options`` has for ``value``.

    Raises:
        ValueError: nothing; the message lists what there is.
    """
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} must be one of {sorted(options)}, got {value!r}")
    return options[value]


def device(value: Any) -> torch.device:
    """The PyTorch device that ``value`` names, if tensors can be put there.

    Args:
        value: "cpu", "cuda", "cuda:1" or any other name that this PyTorch knows.

    Raises:
        ValueError: if ``value`` names no device, or one that this machine lacks.
    """
    try:
        found = torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:<number>', got {value!r}") from error
    try:
        torch.empty(1, device=found)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"device {value!r} is not available here; choose another, such as --device cpu") from error
    return found


def error_line(error: BaseException) -> str:
    """One line that says what a user did wrong: the message of ``first_cause``.

    An error of the operating system becomes ``<file>: <reason>``. Characters that could forge the output of a terminal,
    such as newlines in the name of a file, are escaped.

    Args:
        error: any exception.
    """
    cause = first_cause(error)
    text = str(cause)
    if isinstance(cause, OSError) and cause.filename is not None and cause.strerror:
        text = f"{os.fsdecode(cause.filename)}: {cause.strerror}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.strip())


def first_cause(error: BaseException) -> BaseException:
    """What a user did wrong, out of the errors that MONAI's configs and transforms wrap around it."""
    while error.__cause__ is not None and not isinstance(error, OSError | ValueError | TypeError):
        error = error.__cause__
    return error


def explain_errors() -> None:
    """Let the traceback of an uncaught exception end with the line ``error: <first cause>``."""

    def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        print(f"error: {error_line(error)}", file=sys.stderr)

    sys.excepthook = explain


def refuse_unknown_options(words: Sequence[str] | None = None) -> None:
    """Stop a ``python -m monai.bundle run`` that was given an option which no configuration has: MONAI would go on as
    if it had not been given.

    Args:
        words: of the command line; default: this process's. Of any other program they are not looked at.

    Raises:
        ValueError: there is such an option; the message names it, and what may have been meant.
    """
    program, *arguments = sys.argv if words is None else words
    if Path(program).parts[-3:] != ("monai", "bundle", "__main__.py") or arguments[:1] != ["run"]:
        return
    given = _options(arguments[1:])
    if "args_file" in given:
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    files = given.get("config_file")
    if files is None:
        return
    if isinstance(files, str) and files.startswith(("[", "(")):
        files = ast.literal_eval(files)
    known = {*ConfigParser.load_config_files(files), *inspect.signature(monai.bundle.run).parameters, "workflow_type"}
    for option in given:
        key = top_level(option)
        # python-fire takes --no<key> for --<key>=False.
        if key not in known and key.removeprefix("no") not in known:
            similar = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean --{similar[0]}?" if similar else ""
            raise ValueError(f"unknown option --{option}{hint}")


def top_level(option: str) -> str:
    """The key of a configuration that an option's nested key belongs to: ``train`` of ``train#dataset`` and
    ``train::dataset``.
    """
    return option.lstrip("+").replace("::", "#").split("#")[0]


def _options(words: Sequence[str]) -> dict[str, Any]:
    """What a command line of python-fire gives, by name: the text, None of an option without a value."""
    given: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--") and len(word) > 2:
            name, assigned, value = word[2:].partition("=")
            given[name] = value if assigned else (None if following.startswith("--") else following)
    return given
