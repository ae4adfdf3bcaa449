# SPDX-License-Identifier: Apache-2.0
"""The version of this package that a bundle was made for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regplugins import __version__
from regplugins.io.files import PathLike, read_json


def check_bundle(bundle: PathLike | None) -> None:
    """Refuse a bundle whose metadata want another minor version of this package; without metadata do nothing.

    Configurations from before 0.2 do not tell ``begin_run`` where their bundle lies; they give None.
    """
    if bundle is None:
        check_version("this bundle", "0.1")
    elif (path := Path(bundle) / "configs/metadata.json").is_file():
        check_metadata(Path(bundle).resolve().name, read_json(path))


def check_metadata(name: str, metadata: Mapping[str, Any]) -> None:
    """Refuse the metadata of the bundle ``name`` if they want another minor version of this package."""
    packages = metadata.get("required_packages_version")
    if isinstance(packages, Mapping) and "regplugins" in packages:
        check_version(name, str(packages["regplugins"]))


def check_version(name: str, required: str) -> None:
    """Refuse another minor version of this package than the installed one.

    Raises:
        ValueError: if the versions differ; the message names both and the ``pip install`` that fits.
    """
    minor = ".".join(required.split(".")[:2])
    if minor != ".".join(__version__.split(".")[:2]):
        raise ValueError(
            f"{name} was made for regplugins {required}, installed is {__version__}: "
            f"take a newer bundle, or pip install 'regplugins=={minor}.*'"
        )
