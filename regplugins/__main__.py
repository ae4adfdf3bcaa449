# SPDX-License-Identifier: Apache-2.0
"""``python -m regplugins``: what users do around a bundle run."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
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
    wrong = _wrong_usage(words)
    if wrong:
        print(f"error: {words[0]} {wrong}; see python -m regplugins {words[0]} --help", file=sys.stderr)
        sys.exit(2)
    logging.basicConfig(format="%(message)s")  # to stderr; the result alone goes to stdout
    logging.getLogger("regplugins").setLevel(logging.INFO)
    for command in COMMANDS.values():
        _take_words_as_they_are(command)
    try:
        fire.Fire(COMMANDS, command=words, name="regplugins", serialize=_json if as_json else _text)
    except Exception as error:
        sys.exit(f"error: {first_cause(error)}")


def _wrong_usage(words: Sequence[str]) -> str:
    """What is wrong with options or the number of words; python-fire complains after it has run the command."""
    if not words or words[0] not in COMMANDS or "-h" in words or "--help" in words:
        return ""
    parameters = inspect.signature(COMMANDS[words[0]]).parameters
    kinds = [parameter.kind for parameter in parameters.values()]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        options = [word for word in words[1:] if _is_option(word)]
        unknown = [word for word in options if not _names_one(word.lstrip("-").split("=")[0], parameters)]
        if unknown:
            return f"has no option {', '.join(unknown)}"
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        pairs = pairwise(words)
        free = [word for before, word in pairs if not _is_option(word) and (not _is_option(before) or "=" in before)]
        places = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if len(free) > places:
            return f"takes {places} words, got {len(free)}: {' '.join(free)}"
    return ""


def _is_option(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None


def _names_one(name: str, parameters: Mapping[str, Any]) -> bool:
    """Whether an option names a parameter: in full, or by a first letter that no other has, as fire's help offers."""
    name = name.replace("-", "_")
    return name in parameters or (len(name) == 1 and sum(key.startswith(name) for key in parameters) == 1)


def _take_words_as_they_are(command: Callable[..., Any]) -> None:
    """Keep python-fire from reading a path such as ``2024.10`` as a number, and tell which number is none."""
    parsers: dict[str, Callable[[str], Any]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            fire.decorators.SetParseFn(str)(command)
        elif parameter.kind is not parameter.VAR_KEYWORD:
            kinds = {"int": int, "float": float, "bool": fire.parser.DefaultParseValue}
            parsers[name] = partial(_parse, name, kinds.get(parameter.annotation, str))
    fire.decorators.SetParseFns(**parsers)(command)


def _parse(name: str, kind: Callable[[str], Any], word: str) -> Any:
    try:
        return kind(word)
    except ValueError as error:
        raise ValueError(f"{name} must be a number ({kind.__name__}), got '{word}'") from error


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
