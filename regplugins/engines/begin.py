# SPDX-License-Identifier: Apache-2.0
"""Settings of the process that runs a bundle."""

from __future__ import annotations

import logging
from typing import Any

from monai.utils import set_determinism

from regplugins.checks import boolean, whole
from regplugins.checks import device as available_device
from regplugins.compatibility import check_bundle
from regplugins.engines.command_line import guard_bundle_run
from regplugins.io.files import PathLike


class _Format(logging.Formatter):
    """Formatter of plain messages; levels above information are prefixed."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def begin_run(seed: int, verbose: bool, device: Any = None, bundle_root: PathLike | None = None) -> None:
    """Refuse options that no configuration has, end a failure with one line that says why, set what is random and what
    is logged.

    Messages of this package go to standard error.

    Args:
        seed: of all random numbers.
        verbose: log what happens; False: warnings and errors alone.
        device: where the network is going to run, to be refused before anything is read; default: not looked at.
        bundle_root: the bundle's folder. Default: the bundle was made before version 0.2, and is refused.

    Raises:
        TypeError: if ``verbose`` is no boolean.
        ValueError: if the command line has an option that no configuration has, the seed is no whole number, or there
            is no such device, or the bundle was made for another minor version of this package.
    """
    guard_bundle_run()
    check_bundle(bundle_root)
    level = logging.INFO if boolean("verbose", verbose) else logging.WARNING
    if device is not None:
        available_device(device)
    set_determinism(whole("seed", seed, 0))
    logging.getLogger().setLevel(level)
    # ignite repeats the exception's message.
    logging.getLogger("ignite").setLevel(level if verbose else logging.CRITICAL)
    ours = logging.getLogger("regplugins")
    ours.setLevel(level)
    if not any(isinstance(handler.formatter, _Format) for handler in ours.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(_Format())
        ours.addHandler(handler)
    ours.propagate = False
