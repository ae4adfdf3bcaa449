# SPDX-License-Identifier: Apache-2.0
"""Bundles as files that others can fetch, check and run."""

from __future__ import annotations

from regplugins.sharing.archive import pack, unpack
from regplugins.sharing.hub import publish

__all__ = ["pack", "publish", "unpack"]
