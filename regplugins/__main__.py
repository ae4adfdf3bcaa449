# SPDX-License-Identifier: Apache-2.0
"""``python -m regplugins``: what users do around a bundle run."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from typing import Any

import fire

import regplugins
from regplugins.checks import first_cause
from regplugins.commands import COMMANDS


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command line; a user's mistake ends with its message and exit code 1 (2: wrong usage).

    Args:
        arguments: what follows ``python -m regplugins``; default: that of this process. ``--json`` prints the result
            as JSON.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    unknown = _unknown_options(words)
    if unknown:
        print(
            f"error: {words[0]} has no option {', '.join(unknown)}; see python -m regplugins {words[0]} --help",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        fire.Fire(COMMANDS, command=words, name="regplugins", serialize=_json if as_json else _text)
    except Exception as error:
        sys.exit(f"error: {first_cause(error)}")


def _unknown_options(words: Sequence[str]) -> list[str]:
    """Options that the command does not have: python-fire complains of them after it has run the command."""
    if not words or words[0] not in COMMANDS:
        return []
    parameters = inspect.signature(COMMANDS[words[0]]).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    options = [word for word in words[1:] if re.match(r"--?[A-Za-z]", word) and word not in ("-h", "--help")]
    return [word for word in options if word.lstrip("-").split("=")[0].replace("-", "_") not in parameters]


def _json(result: Any) -> str | None:
    return None if result is None else regplugins.report.json_text(result)


def _text(result: Any, indent: str = "") -> Any:
    """A result as lines ``key: value``, what is nested indented below its key."""
    if not isinstance(result, dict):
        return result
    lines = []
    for key, value in result.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", _text(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {f'{value:.4g}' if isinstance(value, float) else value}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
