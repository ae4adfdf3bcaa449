# SPDX-License-Identifier: Apache-2.0
"""Checks of values that come from a command line."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


def boolean(name: str, value: Any) -> bool:
    """``value``, if it is a boolean: python-fire hands ``true`` and ``false`` over as strings, and both would count as true.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def explain_errors() -> None:
    """Let an uncaught exception end with its first cause: MONAI's configs wrap it in several that say less.

    The traceback stays as it is; the line ``error: <cause>`` comes after it.
    """

    def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        cause = error
        while cause.__cause__ is not None and not isinstance(cause, OSError | ValueError | TypeError):
            cause = cause.__cause__
        print(f"error: {cause}", file=sys.stderr)

    sys.excepthook = explain
