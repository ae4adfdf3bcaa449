# SPDX-License-Identifier: Apache-2.0
"""Loading of trained weights."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import torch
from torch import nn

from regplugins.io import sha256
from regplugins.networks.exported import SUFFIXES, load_exported


def weights_file(folder: str | Path, name: str | None = None) -> Path | None:
    """Path of weights in a bundle's folder ``models``; None for random weights.

    Args:
        folder: the bundle's ``models``.
        name: None for ``model.pt``, "<name>" for ``model_<name>.pt``, "random" for none, or the path of other weights
            (``.pt``) or of an exported network (``.ts``, ``.onnx``).
    """
    if name == "random":
        return None
    if name is not None and name.endswith((".pt", *SUFFIXES)):
        return Path(name)
    return Path(folder) / ("model.pt" if name is None else f"model_{name}.pt")


def listed_sha256(path: Path) -> str | None:
    """Sha256 that a bundle's ``metadata.json`` lists for a file; None if it is not listed or not in a bundle."""
    folder = path.parent.resolve()  # the file itself may be a link into a cache
    bundle = folder.parent
    metadata = bundle / "configs/metadata.json"
    if not metadata.is_file():
        return None
    try:
        weights = json.loads(metadata.read_text(encoding="utf-8")).get("weights", {})
        entry = weights.get(f"{folder.name}/{path.name}")
        return None if entry is None else str(entry["sha256"]).lower()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{metadata}: not a bundle's metadata ({error!r})") from error


def load_weights(network: nn.Module, folder: str | Path, name: str | None = None) -> nn.Module:
    """Load a bundle's weights into its network.

    Args:
        network: the bundle's ``network_def``.
        folder: the bundle's ``models``.
        name: as for ``weights_file``; "random" keeps the initial weights.

    Returns:
        The network, or the exported one in its place.

    Raises:
        FileNotFoundError: if there is no such file; the message lists the existing ones.
        ImportError: if onnxruntime is needed and not installed.
        ValueError: if the file is damaged, belongs to another network, or has another sha256 than the metadata.
    """
    path = weights_file(folder, name)
    if path is None:
        return network
    if path.suffix in SUFFIXES:
        return _named(load_exported(path, network), path, folder)
    if not path.is_file():
        present = sorted(file.name for file in Path(folder).glob("model*.pt"))
        raise FileNotFoundError(f"{path}: no such weights; there are {present}")
    listed = listed_sha256(path)
    if listed is not None and sha256(path) != listed:
        raise ValueError(
            f"{path}: its sha256 is not the one that the bundle's configs/metadata.json lists: damaged or replaced; "
            "keep weights of your own in another folder and give them by --weights FILE.pt"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:
        reason = textwrap.shorten(str(error), 300)
        raise ValueError(f"{path}: not the weights of this network, or damaged ({reason})") from error
    return _named(network, path, folder)


def _named(network: nn.Module, path: Path, folder: str | Path) -> nn.Module:
    """The network, with the name that messages give its weights."""
    name = f"{path} (weights of the bundle {Path(folder).resolve().parent.name})"
    setattr(network, "weights_name", name)  # noqa: B010 (modules take any attribute, mypy knows tensors alone)
    return network
