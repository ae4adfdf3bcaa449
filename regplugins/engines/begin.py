# SPDX-License-Identifier: Apache-2.0
"""Settings of the process that runs a bundle."""

from __future__ import annotations

import logging

from regplugins.checks import boolean, explain_errors, refuse_unknown_options


class _Format(logging.Formatter):
    """Messages alone; what is more than information says its level."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def begin_run(verbose: bool) -> None:
    """Refuse options that no configuration has, end a failure with one line that says why, and set what is logged.

    Messages of this package go to standard error.

    Args:
        verbose: log what happens; False: warnings and errors alone.

    Raises:
        TypeError: if ``verbose`` is no boolean.
        ValueError: if the command line has an option that no configuration has.
    """
    explain_errors()
    level = logging.INFO if boolean("verbose", verbose) else logging.WARNING
    refuse_unknown_options()
    logging.getLogger().setLevel(level)
    # What ignite has to say of an exception, the exception says better.
    logging.getLogger("ignite").setLevel(level if verbose else logging.CRITICAL)
    ours = logging.getLogger("regplugins")
    ours.setLevel(level)
    if not any(isinstance(handler.formatter, _Format) for handler in ours.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(_Format())
        ours.addHandler(handler)
    ours.propagate = False
