# SPDX-License-Identifier: Apache-2.0
"""Checks of values that come from a command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any


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
    """``value`` as a number.

    Raises:
        ValueError: it is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number, got {value!r}") from error


def choice(name: str, value: Any, options: Mapping[str, Any]) -> Any:
    """What ``options`` has for ``value``.

    Raises:
        ValueError: nothing; the message lists what there is.
    """
    if value not in options:
        raise ValueError(f"{name} must be one of {sorted(options)}, got {value!r}")
    return options[value]


def first_cause(error: BaseException) -> BaseException:
    """What a user did wrong, out of the errors that MONAI's configs and transforms wrap around it."""
    while error.__cause__ is not None and not isinstance(error, OSError | ValueError | TypeError):
        error = error.__cause__
    return error


def explain_errors() -> None:
    """Let the traceback of an uncaught exception end with the line ``error: <first cause>``."""

    def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        print(f"error: {first_cause(error)}", file=sys.stderr)

    sys.excepthook = explain
