# SPDX-License-Identifier: Apache-2.0
"""Trained weights from files."""

from __future__ import annotations

import textwrap
from pathlib import Path

import torch
from torch import nn

from regplugins.networks.exported import SUFFIXES, load_exported


def weights_file(folder: str | Path, name: str | None = None) -> Path | None:
    """Where a bundle keeps weights.

    Args:
        folder: the bundle's ``models``.
        name: None for ``model.pt``, "<name>" for ``model_<name>.pt``, "random" for none; or the path of an exported
            network, ``.ts`` or ``.onnx``.
    """
    if name == "random":
        return None
    if name is not None and name.endswith(SUFFIXES):
        return Path(name)
    return Path(folder) / ("model.pt" if name is None else f"model_{name}.pt")


def load_weights(network: nn.Module, folder: str | Path, name: str | None = None) -> nn.Module:
    """Load a bundle's weights into its network.

    Args:
        network: as the bundle's ``network_def`` makes it.
        folder: the bundle's ``models``.
        name: as for ``weights_file``; "random" leaves the network as it was initialised.

    Returns:
        The network, or the exported one in its place.

    Raises:
        FileNotFoundError: there is no such file; the message lists those that there are.
        ImportError: an ONNX file, and onnxruntime is not installed.
        ValueError: the file is no state dict, is truncated, or belongs to another network. The message names it.
    """
    path = weights_file(folder, name)
    if path is None:
        return network
    if path.suffix in SUFFIXES:
        return load_exported(path, network)
    if not path.is_file():
        present = sorted(file.name for file in Path(folder).glob("model*.pt"))
        raise FileNotFoundError(f"{path}: no such weights; there are {present}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:
        reason = textwrap.shorten(str(error), 300)
        raise ValueError(f"{path}: not the weights of this network, or damaged ({reason})") from error
    return network
