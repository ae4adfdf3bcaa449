# SPDX-License-Identifier: Apache-2.0
"""The ``regplugins`` command, which is ``python -m regplugins`` too."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import fire

import regplugins
from regplugins.checks import did_you_mean, error_line
from regplugins.commands import COMMANDS


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends with its message and exit code 1, wrong usage with exit code 2.

    Args:
        arguments: words after ``regplugins``. Default: those of this process. ``--json`` prints the result as JSON.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    if words == ["--version"]:
        print(f"regplugins {regplugins.__version__}")
        return
    if not words or words[0].startswith("-"):
        fire.Fire(COMMANDS, command=words or ["--help"], name="regplugins")
        return
    logging.basicConfig(format="%(message)s")  # to stderr; the result alone goes to stdout
    logging.getLogger("regplugins").setLevel(logging.INFO)
    try:
        result = _parsed(words)()
    except Exception as error:
        sys.exit(f"error: {error_line(error)}")
    print(regplugins.io.json_text(result) if as_json else _text(result))


def _parsed(words: Sequence[str]) -> Callable[[], dict[str, Any]]:
    """Parse a command and its words with python-fire, which would refuse some words only after running the command."""
    name, *rest = words
    if name not in COMMANDS:
        _end_usage(f"no command {name}; commands are {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    if name == "register":
        rest = [_long_option(word, inspect.signature(command).parameters) for word in rest]
    if {"-h", "--help"} & set(rest):
        fire.Fire(COMMANDS, command=[name, "--", "--help"], name="regplugins")
    _refuse_unknown_options(name, rest)
    calls = []

    @functools.wraps(command)
    def record(*values: Any, **options: Any) -> None:
        calls.append(inspect.signature(command).bind(*values, **options))

    fire.Fire({name: record}, command=[name, *map(_as_data, rest)], name="regplugins")
    (call,) = calls
    call.apply_defaults()
    for key, parameter in call.signature.parameters.items():
        value = call.arguments[key]
        if parameter.kind is parameter.VAR_KEYWORD:
            call.arguments[key] = {  # a folder's name may look like a number
                option: word if option.endswith("_dir") else _literal(word) for option, word in value.items()
            }
        elif not parameter.annotation.startswith("str"):
            call.arguments[key] = _literal(value)
        elif isinstance(value, bool):  # python-fire takes an option without a value for True
            _end_usage(f"{name} wants a value after --{key}; see regplugins {name} --help")
    return functools.partial(command, *call.args, **call.kwargs)


def _long_option(word: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """Replace an option of one letter by the first parameter that begins with it.

    python-fire lists these letters in its help, but does not take them if a command has ``**options``.
    """
    if re.match(r"-[A-Za-z](=|$)", word):
        for name, parameter in parameters.items():
            if name.startswith(word[1]) and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                return f"--{name}{word[2:]}"
    return word


def _refuse_unknown_options(name: str, words: Sequence[str]) -> None:
    parameters = inspect.signature(COMMANDS[name]).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for word in filter(_is_option, words):
        option = word.partition("=")[0].lstrip("-").replace("-", "_")
        # python-fire takes first letters of options, and --no<option> for --<option>=False.
        if len(option) > 1 and option not in parameters and option.removeprefix("no") not in parameters:
            file = f"; a file of that name is written ./{word}" if "." in word else ""
            hint = did_you_mean(option, parameters) or file
            _end_usage(f"{name} has no option {word}{hint}; see regplugins {name} --help")


def _end_usage(what: str) -> NoReturn:
    print(f"error: {what}", file=sys.stderr)
    sys.exit(2)


def _is_option(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None


def _as_data(word: str) -> str:
    """Quote a word, or the value of an option, so that python-fire hands it over as text."""
    if not _is_option(word):
        return repr(word)
    option, equals, value = word.partition("=")
    return f"{option}={value!r}" if equals else word


def _literal(value: Any) -> Any:
    """Convert text as python-fire does, except text with "#", which python-fire would cut off as a comment."""
    return fire.parser.DefaultParseValue(value) if isinstance(value, str) and "#" not in value else value


def _text(result: Mapping[str, Any], indent: str = "") -> str:
    """Lines ``key: value`` of a result; a nested mapping is indented below its key."""
    lines = []
    for key, value in result.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", _text(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {f'{value:.4g}' if isinstance(value, float) else value}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
