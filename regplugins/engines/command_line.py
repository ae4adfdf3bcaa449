# SPDX-License-Identifier: Apache-2.0
"""The command line of ``python -m monai.bundle run``: its options are checked, its errors end with one line."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser

from regplugins.checks import did_you_mean, error_line


def guard_bundle_run(words: Sequence[str] | None = None) -> None:
    """Refuse unknown options of ``monai.bundle run``, and let its traceback end with the line ``error: <cause>``.

    MONAI ignores an option that no configuration has. Any other program is left as it is.

    Args:
        words: command line. Default: that of this process.

    Raises:
        ValueError: if no configuration has one of the options; the message suggests a similar one.
    """
    program, *arguments = sys.argv if words is None else words
    if Path(program).parts[-3:] != ("monai", "bundle", "__main__.py") or arguments[:1] != ["run"]:
        return
    sys.excepthook = _explain
    given = _options(arguments[1:])
    if "args_file" in given:
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    files = given.get("config_file")
    if files is None:
        return
    if isinstance(files, str) and files.startswith(("[", "(")):
        files = ast.literal_eval(files)
    known = {*ConfigParser.load_config_files(files), *inspect.signature(monai.bundle.run).parameters, "workflow_type"}
    # python-fire takes --no<key> for --<key>=False.
    refuse_unknown([key for key in given if top_level(key).removeprefix("no") not in known], known)


def refuse_unknown(options: Sequence[str], known: Collection[str]) -> None:
    """Refuse options that a configuration lacks.

    Args:
        options: names without dashes, possibly of nested keys.
        known: top-level keys of the configuration.

    Raises:
        ValueError: if one is unknown; the message suggests a similar one.
    """
    for option in options:
        key = top_level(option)
        if key not in known:
            raise ValueError(f"unknown option --{option}{did_you_mean(key, known)}")


def top_level(option: str) -> str:
    """Top-level key of a nested one: ``train`` of ``train#dataset`` and ``train::dataset``."""
    return option.lstrip("+").replace("::", "#").split("#")[0]


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, trace)
    print(f"error: {error_line(error)}", file=sys.stderr)


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Options of a python-fire command line by name; None is an option without a value."""
    given: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--") and len(word) > 2:
            name, assigned, value = word[2:].partition("=")
            given[name] = value if assigned else (None if following.startswith("--") else following)
    return given
