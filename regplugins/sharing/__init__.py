# SPDX-License-Identifier: Apache-2.0
"""Bundles as files that others can fetch, check and run, and the first files of a new one."""

from __future__ import annotations

from regplugins.sharing.archive import bundle_files, pack, unpack
from regplugins.sharing.find import find_bundle
from regplugins.sharing.hub import publish
from regplugins.sharing.scaffold import new
from regplugins.sharing.skeleton import build

__all__ = ["build", "bundle_files", "find_bundle", "new", "pack", "publish", "unpack"]
