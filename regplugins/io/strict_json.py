# SPDX-License-Identifier: Apache-2.0
"""Strict JSON, which has neither NaN nor infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(content: Mapping[str, Any]) -> str:
    """Format a nested mapping as strict JSON.

    Args:
        content: mappings, lists, strings, numbers, None. NaN and infinity become null, such as the distance to a
            structure that is missing.
    """
    return json.dumps(none_for_nan(content), indent=2, ensure_ascii=False, allow_nan=False)


def none_for_nan(value: Any) -> Any:
    """Replace NaN and infinity by None, at any depth."""
    if isinstance(value, Mapping):
        return {key: none_for_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [none_for_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
