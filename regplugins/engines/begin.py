# SPDX-License-Identifier: Apache-2.0
"""Start of a bundle's run: its options are checked, its errors end with one line, and the process is set up."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from regplugins.checks import boolean, did_you_mean, error_line, whole
from regplugins.checks import device as available_device
from regplugins.compatibility import check_bundle
from regplugins.io.files import PathLike

_OPTION = re.compile("--.|-[A-Za-z]")  # python-fire takes one dash, too


class _Format(logging.Formatter):
    """Formatter of plain messages; levels above information are prefixed."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def begin_run(seed: int, verbose: bool, device: Any = None, bundle_root: PathLike | None = None) -> None:
    """Check a run's options, bundle and device, let its errors end with one line, and seed all random numbers.

    Messages of this package go to standard error.

    Args:
        seed: of all random numbers.
        verbose: log what happens; False: warnings and errors alone.
        device: where the network is going to run; default: not checked.
        bundle_root: the bundle's folder. Default: the bundle was made before version 0.2, and is refused.

    Raises:
        ValueError: if the command line has an option that no configuration has, the seed is no whole number, there is
            no such device, or the bundle was made for another minor version of this package.
    """
    guard_bundle_run()
    check_bundle(bundle_root)
    level = logging.INFO if boolean("verbose", verbose) else logging.WARNING
    if device is not None:
        available_device(device)
    set_determinism(whole("seed", seed, 0))
    if verbose:  # else the program that runs this may have messages of its own
        logging.getLogger().setLevel(level)
    # ignite repeats the exception's message.
    logging.getLogger("ignite").setLevel(level if verbose else logging.CRITICAL)
    ours = logging.getLogger("regplugins")
    ours.setLevel(level)
    for earlier in [handler for handler in ours.handlers if isinstance(handler.formatter, _Format)]:
        ours.removeHandler(earlier)  # its standard error may have been replaced
    handler = logging.StreamHandler()
    handler.setFormatter(_Format())
    ours.addHandler(handler)
    ours.propagate = False


def guard_bundle_run(words: Sequence[str] | None = None) -> None:
    """Refuse unknown options of ``monai.bundle run``, and let its traceback end with the line ``error: <cause>``.

    MONAI ignores an option that no configuration has. Any other program is left as it is.

    Args:
        words: command line. Default: that of this process.

    Raises:
        ValueError: as ``refuse_unknown``.
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
    own = (*inspect.signature(monai.bundle.run).parameters, "workflow_type")
    known = {**dict.fromkeys(own), **ConfigParser.load_config_files(files)}
    # python-fire takes --no<key> for --<key>=False.
    refuse_unknown([key for key in given if key in known or key.removeprefix("no") not in known], known)


def refuse_unknown(options: Sequence[str], known: Mapping[str, Any]) -> None:
    """Refuse options, possibly of nested keys, whose top-level key is unknown, or is null and has no parts.

    Raises:
        ValueError: if there is one; the message suggests a similar one.
    """
    for option in options:
        key = _top_level(option)
        if key not in known:
            raise ValueError(f"unknown option --{option}{did_you_mean(key, known)}")
        if known[key] is None and key not in options and option != f"+{key}":
            raise ValueError(f"--{option}: {key} is null in this configuration and has no parts to set")


def _top_level(option: str) -> str:
    """Top-level key of a nested one: ``train`` of ``train#dataset`` and ``train::dataset``."""
    return option.lstrip("+").replace("::", "#").split("#")[0]


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, trace)
    print(f"error: {error_line(error)}", file=sys.stderr)


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Options of a python-fire command line by name; None is an option without a value."""
    given: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if _OPTION.match(word):
            name, assigned, value = word.lstrip("-").partition("=")
            given[name] = value if assigned else (None if _OPTION.match(following) else following)
    return given
