# SPDX-License-Identifier: Apache-2.0
"""Commands of ``regplugins``, each thin over a public function; their docstrings are the help texts.

A command imports PyTorch and MONAI when it runs, so that help does not wait for them.
"""

from __future__ import annotations

from regplugins.commands.registration import align, register
from regplugins.commands.results import evaluate, report
from regplugins.commands.sharing import build, bundles, label, new, pack, prepare, publish, unpack
from regplugins.commands.transforms import apply, compose, convert, invert

COMMANDS = {
    command.__name__: command
    for command in (
        *(register, align, apply, compose, invert, convert, evaluate, report),
        *(prepare, bundles, new, build, pack, unpack, publish, label),
    )
}

__all__ = ["COMMANDS"]
