# SPDX-License-Identifier: Apache-2.0
"""Loading of trained weights, and of networks exported to TorchScript (``ckpt_export``) and ONNX (``onnx_export``)."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor, nn

from regplugins.io import sha256


def weights_file(folder: str | Path, name: str | None = None) -> Path | None:
    """Path of weights in a bundle's folder ``models``; None for random weights.

    The name is None for ``model.pt``, "<name>" for ``model_<name>.pt``, "random" for none, or the path of other weights
    (``.pt``) or of an exported network (``.ts``, ``.onnx``).
    """
    if name == "random":
        return None
    if name is None:
        return Path(folder) / "model.pt"
    name = str(name)  # python-fire makes a number of a name of digits
    return Path(name) if name.endswith((".pt", *SUFFIXES)) else Path(folder) / f"model_{name}.pt"


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
        ValueError: if the file is damaged, belongs to another network or to other options of it, or has another sha256
            than the metadata.
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
            "keep weights of your own in another folder and give their path"
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


SUFFIXES = (".ts", ".onnx")
# Attributes that inferers need and that a file with operations alone does not have.
_NUMBERS = ("stride", "margin", "voxel_bytes")
# Options that are fixed at export.
_OPTIONS = ("affine_alone", "regressor")


def load_exported(path: Path, definition: nn.Module) -> nn.Module:
    """Load a network from an exported file (``.ts``, ``.onnx``); errors as of ``load_weights``.

    ``definition``, the network that was exported, gives its attributes and options, which ONNX files do not tell.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.suffix == ".onnx":
            return OnnxNetwork(path, definition)
        network = torch.jit.load(path, map_location="cpu")
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: no exported network, or damaged ({textwrap.shorten(str(error), 300)})") from error
    for name in _OPTIONS:
        if hasattr(network, name) and getattr(network, name) != getattr(definition, name):
            values = f"{name} {getattr(network, name)}, not {getattr(definition, name)}"
            raise ValueError(f"{path}: was exported with {values}: give network_def the options of the export")
    if not hasattr(network, "stride"):  # a TensorRT module has only the operations
        _copy_numbers(definition, network)
    return network


def _copy_numbers(definition: nn.Module, network: nn.Module) -> None:
    for name in _NUMBERS:
        if hasattr(definition, name):
            setattr(network, name, getattr(definition, name))


class OnnxNetwork(nn.Module):
    """ONNX file run by onnxruntime on the CPU, without derivatives."""

    def __init__(self, path: Path, definition: nn.Module) -> None:
        super().__init__()
        onnxruntime, has_onnxruntime = optional_import("onnxruntime")
        if not has_onnxruntime:
            raise ImportError(f"{path}: needs onnxruntime: pip install onnxruntime")
        self.path = path
        _copy_numbers(definition, self)
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(self, pair: Tensor) -> Tensor:
        """Return the output of the exported network on the pair's device.

        Raises:
            ValueError: if the pair is of another size than that of the export.
        """
        (image,) = self.session.get_inputs()
        wanted = [size if isinstance(size, int) else None for size in image.shape]
        given = list(pair.shape)
        if len(wanted) != len(given) or any(a not in (None, b) for a, b in zip(wanted, given, strict=True)):
            shape = str(given).replace(" ", "")
            raise ValueError(f"{self.path}: was exported for another size ({wanted}); give --input_shape '{shape}'")
        (result,) = self.session.run(None, {image.name: pair.detach().cpu().float().numpy()})
        return torch.from_numpy(result).to(pair.device)
