# SPDX-License-Identifier: Apache-2.0
"""Finding a bundle by its name."""

from __future__ import annotations

from pathlib import Path

import torch

from regplugins.io.files import PathLike

_INFERENCE = "configs/inference.json"
_PACKAGE = Path(__file__).parents[1]


def find_bundle(name: PathLike) -> Path:
    """Find the folder of a bundle: ``name`` itself, or that of ``known_bundle``.

    Raises:
        FileNotFoundError: if there is none.
    """
    return Path(name) if (Path(name) / _INFERENCE).is_file() else known_bundle(name)


def known_bundle(name: PathLike) -> Path:
    """Find the folder of a bundle by its name, wherever the process runs.

    Args:
        name: of a bundle that lies beside this package in its repository, comes with the installed package, or was
            downloaded by ``monai.bundle download`` without ``--bundle_dir``.

    Raises:
        FileNotFoundError: if there is none.
    """
    repository = _PACKAGE.parent
    own = (repository if (repository / "pyproject.toml").is_file() else _PACKAGE) / "bundles"
    homes = (own, Path(torch.hub.get_dir()) / "bundle")
    for home in homes if Path(name).name == str(name) else ():
        if (home / name / _INFERENCE).is_file():
            return home / name
    known = sorted({path.parents[1].name for home in homes for path in home.glob(f"*/{_INFERENCE}")})
    raise FileNotFoundError(
        f"{Path(name) / _INFERENCE}: no such file; is {name} a bundle's folder? Known by name: {', '.join(known)}"
    )
