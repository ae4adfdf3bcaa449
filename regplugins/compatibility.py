# SPDX-License-Identifier: Apache-2.0
"""The version of this package that a bundle was made for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regplugins import __version__
from regplugins.io.files import PathLike, read_json

# Configurations from before 0.2 do not tell ``begin_run`` where their bundle lies.
_UNTOLD = "0.1"


def check_bundle(bundle: PathLike | None) -> None:
    """Refuse a bundle whose metadata want another minor version of this package.

    Args:
        bundle: the bundle's folder; nothing is checked if it has no metadata. None: made before 0.2.

    Raises:
        ValueError: if the versions differ.
    """
    if bundle is None:
        check_version("this bundle", _UNTOLD)
    elif (path := Path(bundle) / "configs/metadata.json").is_file():
        check_metadata(Path(bundle).resolve().name, read_json(path))


def check_metadata(name: str, metadata: Mapping[str, Any]) -> None:
    """Refuse metadata that want another minor version of this package.

    Args:
        name: what the message calls the bundle.
        metadata: the content of ``metadata.json``; nothing is checked if they want no version.

    Raises:
        ValueError: if the versions differ.
    """
    packages = metadata.get("required_packages_version")
    if isinstance(packages, Mapping) and "regplugins" in packages:
        check_version(name, str(packages["regplugins"]))


def check_version(name: str, required: str) -> None:
    """Refuse another minor version of this package than the installed one.

    Args:
        name: what the message calls the bundle.
        required: version that the bundle was made for.

    Raises:
        ValueError: if the versions differ; the message names both and the ``pip install`` that fits.
    """
    minor = ".".join(required.split(".")[:2])
    if minor != ".".join(__version__.split(".")[:2]):
        raise ValueError(
            f"{name} was made for regplugins {required}, installed is {__version__}: "
            f"take a newer bundle, or pip install 'regplugins=={minor}.*'"
        )
