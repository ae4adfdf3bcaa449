# SPDX-License-Identifier: Apache-2.0
"""Warnings about a pair, for the terminal and its report."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

logger = logging.getLogger(__name__)


def warn(pair: MutableMapping[str, Any], message: str) -> None:
    """Log a warning about a pair and append it to ``pair["warnings"]``, which ``report.json`` lists.

    Args:
        pair: dictionary of the pair; its list is replaced, not changed, since shallow copies share it.
        message: one sentence that names the file and the fact.
    """
    logger.warning("%s", message)
    pair["warnings"] = [*pair.get("warnings", []), message]
