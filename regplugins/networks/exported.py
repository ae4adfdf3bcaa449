# SPDX-License-Identifier: Apache-2.0
"""Exported networks: TorchScript (``ckpt_export``) and ONNX (``onnx_export``)."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor, nn

onnxruntime, _has_onnxruntime = optional_import("onnxruntime")

SUFFIXES = (".ts", ".onnx")
# Attributes that inferers need and that a file with operations alone does not have.
_NUMBERS = ("stride", "margin", "voxel_bytes")
# Options that are fixed at export.
_OPTIONS = ("affine_alone", "regressor")


def load_exported(path: Path, definition: nn.Module) -> nn.Module:
    """Load a network from an exported file.

    Args:
        path: ``.ts`` or ``.onnx``.
        definition: the network that was exported, for its attributes; its weights are ignored.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if onnxruntime is needed and not installed.
        ValueError: if the file is damaged, of another format, or exported with other options (which ONNX files do not
            tell).
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
    """ONNX file run by onnxruntime on the CPU, without derivatives.

    Args:
        path: the file.
        definition: the network that was exported.

    Raises:
        ImportError: if onnxruntime is not installed.
    """

    def __init__(self, path: Path, definition: nn.Module) -> None:
        super().__init__()
        if not _has_onnxruntime:
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
