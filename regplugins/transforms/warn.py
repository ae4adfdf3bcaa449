# SPDX-License-Identifier: Apache-2.0
"""Warnings about a pair, for the terminal and its report."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

logger = logging.getLogger(__name__)


def warn(pair: MutableMapping[str, Any], message: str) -> None:
    """Log a warning that names a file and a fact, and append it to ``pair["warnings"]`` for ``report.json``."""
    logger.warning("%s", message)
    # The list is replaced, not changed, since shallow copies of the pair share it.
    pair["warnings"] = [*pair.get("warnings", []), message]
