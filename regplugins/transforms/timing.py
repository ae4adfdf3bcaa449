# SPDX-License-Identifier: Apache-2.0
"""Wall-clock time of each stage of a registration."""

from __future__ import annotations

import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def stage(pair: MutableMapping[str, Any], name: str) -> Iterator[None]:
    """Add the wall-clock time of the block to ``pair["seconds"][name]``."""
    start = time.perf_counter()
    yield
    pair["seconds"][name] = pair["seconds"].get(name, 0.0) + time.perf_counter() - start
