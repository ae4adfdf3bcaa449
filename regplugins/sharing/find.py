# SPDX-License-Identifier: Apache-2.0
"""Finding a bundle by its name."""

from __future__ import annotations

from pathlib import Path

import torch

from regplugins.io.files import PathLike

_INFERENCE = "configs/inference.json"
_PACKAGE = Path(__file__).parents[1]


def find_bundle(name: PathLike) -> Path:
    """Find the folder of a bundle.

    Args:
        name: a folder, or the name of a bundle that comes with this package, lies beside it in its repository, or was
            downloaded by ``monai.bundle download`` without ``--bundle_dir``.

    Raises:
        FileNotFoundError: if there is none.
    """
    homes = (_PACKAGE.parent / "bundles", _PACKAGE / "bundles", Path(torch.hub.get_dir()) / "bundle")
    is_name = Path(name).name == str(name)
    for folder in (Path(name), *(home / name for home in homes if is_name)):
        if (folder / _INFERENCE).is_file():
            return folder
    known = sorted({path.parents[1].name for home in homes for path in home.glob(f"*/{_INFERENCE}")})
    raise FileNotFoundError(
        f"{Path(name) / _INFERENCE}: no such file; is {name} a bundle's folder? Known by name: {', '.join(known)}"
    )
