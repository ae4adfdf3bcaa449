# SPDX-License-Identifier: Apache-2.0
"""``python -m regplugins``: what users do around a bundle run."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NoReturn

import fire

import regplugins
from regplugins.checks import error_line
from regplugins.commands import COMMANDS

# Under its own name python-fire's help would list what it keeps about a command among the command's parts.
fire.decorators.FIRE_METADATA = "_fire_metadata"


# Of an option that gives labels their names.
_NAMES = "dict[str, int] | None"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command line; a user's mistake ends with its message and exit code 1 (2: wrong usage).

    Args:
        arguments: what follows ``python -m regplugins``; default: that of this process. ``--json`` prints the result
            as JSON.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    if words and words[0] in COMMANDS and {"-h", "--help"} & set(words):
        words = [words[0], "--", "--help"]  # the form that python-fire does not take for an option of the command
    wrong = _wrong_usage(words)
    if wrong:
        _end_usage(words[0], wrong)
    logging.basicConfig(format="%(message)s")  # to stderr; the result alone goes to stdout
    logging.getLogger("regplugins").setLevel(logging.INFO)
    for command in COMMANDS.values():
        _take_words_as_they_are(command)
    try:
        fire.Fire(COMMANDS, command=words or ["--help"], name="regplugins", serialize=_json if as_json else _text)
    except _ValueWordError as error:
        _end_usage(words[0], str(error))
    except Exception as error:
        sys.exit(f"error: {error_line(error)}")


def _names(word: str) -> dict[str, int]:
    """Names of numbers, as Python writes a dictionary.

    Raises:
        ValueError: they are none.
    """
    try:
        names = ast.literal_eval(word)
    except SyntaxError:
        names = None
    if not isinstance(names, dict) or not all(isinstance(value, int) for value in names.values()):
        raise ValueError(f"expected names and their numbers, got {word}")
    return {str(name): value for name, value in names.items()}


class _ValueWordError(ValueError):
    """An option's word is not of its kind."""


def _end_usage(command: str, what: str) -> NoReturn:
    print(f"error: {command} {what}; see python -m regplugins {command} --help", file=sys.stderr)
    sys.exit(2)


def _wrong_usage(words: Sequence[str]) -> str:
    """What is wrong with options or the number of words; python-fire complains after it has run the command."""
    if not words or words[0] not in COMMANDS or words[-1] == "--help":
        return ""
    parameters = inspect.signature(COMMANDS[words[0]]).parameters
    kinds = [parameter.kind for parameter in parameters.values()]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        unknown = [word for word in words[1:] if _is_option(word) and _parameter(word, parameters) is None]
        if unknown:
            hint = next((f" (a file of that name is written ./{word})" for word in unknown if "." in word), "")
            return f"has no option {', '.join(unknown)}{hint}"
    for word, following in pairwise([*words, "--end"]):
        if _is_option(word) and "=" not in word and _is_option(following):
            parameter = parameters.get(_parameter(word, parameters) or "")
            if parameter is None or parameter.annotation != "bool":  # python-fire would take it for True
                return f"wants a value after {word}"
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        pairs = pairwise(words)
        free = [word for before, word in pairs if not _is_option(word) and (not _is_option(before) or "=" in before)]
        places = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if len(free) > places:
            return f"takes {places} words, got {len(free)}: {' '.join(free)}"
    return ""


def _is_option(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None


def _parameter(option: str, parameters: Mapping[str, Any]) -> str | None:
    """The parameter that an option names: in full, or by a first letter that no other has, as fire's help offers."""
    name = option.lstrip("-").split("=")[0].replace("-", "_")
    named = [key for key in parameters if key == name or (len(name) == 1 and key.startswith(name))]
    return named[0] if len(named) == 1 else None


def _take_words_as_they_are(command: Callable[..., Any]) -> None:
    """Keep python-fire from reading a path such as ``2024.10`` as a number, and tell which number is none."""
    parsers: dict[str, Callable[[str], Any]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            fire.decorators.SetParseFn(str)(command)
        elif parameter.kind is parameter.VAR_KEYWORD:
            fire.decorators.SetParseFn(_value)(command)
        else:
            kinds = {"int": int, "float": float, "bool": fire.parser.DefaultParseValue, _NAMES: _names}
            parsers[name] = partial(_parse, name, kinds.get(parameter.annotation, str))
    fire.decorators.SetParseFns(**parsers)(command)


def _parse(name: str, kind: Callable[[str], Any], word: str) -> Any:
    try:
        return kind(word)
    except ValueError as error:
        what = "names and their numbers" if kind is _names else f"a number ({kind.__name__})"
        raise _ValueWordError(f"wants {what} for {name}, got '{word}'") from error


def _value(word: str) -> Any:
    """Parse a word as python-fire does, except one with "#", which python-fire would cut off as a comment."""
    return word if "#" in word else fire.parser.DefaultParseValue(word)


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
