# SPDX-License-Identifier: Apache-2.0
"""Image registration with MONAI: what the bundles compute with.

Subpackages are imported when they are first asked for, so that ``import regplugins`` suffices for
``regplugins.spatial.warp``, in a bundle's config as anywhere. ``regplugins.register`` registers two scans.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

__version__ = "0.2.0.dev0"


def __getattr__(name: str) -> Any:
    if name == "register":
        return importlib.import_module(f"{__name__}.api").register
    if any(module.name == name for module in pkgutil.iter_modules(__path__)):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
