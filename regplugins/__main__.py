# SPDX-License-Identifier: Apache-2.0
"""``python -m regplugins``: what users do around a bundle run."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import fire

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
    try:
        _check_options(words)
        fire.Fire(COMMANDS, command=words, name="regplugins", serialize=_json if as_json else _text)
    except Exception as error:
        sys.exit(f"error: {first_cause(error)}")


def _check_options(words: Sequence[str]) -> None:
    """Refuse options that the command does not have: python-fire complains of them after it has run the command."""
    if not words or words[0] not in COMMANDS:
        return
    parameters = inspect.signature(COMMANDS[words[0]]).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    options = [word for word in words[1:] if re.match(r"--?[A-Za-z]", word) and word not in ("-h", "--help")]
    names = [option.lstrip("-").split("=")[0].replace("-", "_") for option in options]
    unknown = [option for option, name in zip(options, names, strict=True) if name not in parameters]
    if unknown:
        known = [
            f"--{name}" for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_POSITIONAL
        ]
        raise ValueError(f"{words[0]} has no option {', '.join(unknown)}; it has {', '.join(known)}")


def _json(result: Any) -> str | None:
    return None if result is None else json.dumps(result, indent=2)


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
