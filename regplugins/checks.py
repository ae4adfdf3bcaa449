# SPDX-License-Identifier: Apache-2.0
"""Checks of values that come from a command line, and the one line that explains an error.

A check returns the value in its type, or raises a ``ValueError`` (``boolean``: a ``TypeError``) that names it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_MAX_SINGLE = 3.4028234663852886e38


def boolean(name: str, value: Any) -> bool:
    """Refuse all but booleans: python-fire hands ``true`` and ``false`` over as strings, which are true in Python."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def number(name: str, value: Any) -> float:
    """Convert a value to a number that is finite in single precision; a boolean is refused."""
    try:
        result = float("boolean" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be a number, got {value!r}") from error
    if not abs(result) <= _MAX_SINGLE:
        raise ValueError(f"{name} must be finite in single precision, got {value!r}")
    return result


def positive(name: str, value: Any) -> float:
    """Convert a value to a finite number greater than 0."""
    result = number(name, value)
    if result <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return result


def not_negative(name: str, value: Any) -> float:
    """Convert a value to a finite number of at least 0."""
    result = number(name, value)
    if result < 0:
        raise ValueError(f"{name} must not be negative, got {value!r}")
    return result


def fraction(name: str, value: Any) -> float:
    """Convert a value to a number between 0 and 1."""
    result = number(name, value)
    if not 0 <= result <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value!r}")
    return result


def whole(name: str, value: Any, minimum: int = 1) -> int:
    """Convert an integer, or a text of digits, to a whole number of at least ``minimum``."""
    digits = isinstance(value, str) and value.isdecimal()
    if not (digits or (isinstance(value, int) and not isinstance(value, bool))) or int(value) < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
    return int(value)


def choice(name: str, value: Any, options: Mapping[str, Any]) -> Any:
    """Look up the entry of ``options`` that ``value`` names; the message of the error lists the names."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} must be one of {sorted(options)}, got {value!r}")
    return options[value]


def device(value: Any) -> torch.device:
    """Look up a PyTorch device by its name, and check that it holds tensors on this machine."""
    import torch  # takes more than a second, which the help of a command need not wait for

    try:
        found = torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:<number>', got {value!r}") from error
    try:
        torch.zeros(1, device=found).cpu()
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"device {value!r} is not available here; choose another, such as --device cpu") from error
    return found


def error_line(error: BaseException) -> str:
    """Explain an error in one line: the message of ``first_cause``.

    An error of the operating system becomes ``<file>: <reason>``. Characters that could forge the output of a terminal
    are escaped, such as newlines in the name of a file.
    """
    cause = first_cause(error)
    text = str(cause)
    if isinstance(cause, OSError) and cause.filename is not None and cause.strerror:
        text = f"{os.fsdecode(cause.filename)}: {cause.strerror}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.strip())


def first_cause(error: BaseException) -> BaseException:
    """Find the user's mistake below the errors that MONAI's configurations and transforms wrap around it."""
    while error.__cause__ is not None and not isinstance(error, OSError | ValueError | TypeError):
        error = error.__cause__
    return error


def did_you_mean(option: str, known: Iterable[str]) -> str:
    """Suggest a known option in place of an unknown one, both without dashes; empty if none is similar."""
    similar = difflib.get_close_matches(option, known, n=1)
    return f"; did you mean --{similar[0]}?" if similar else ""
