# SPDX-License-Identifier: Apache-2.0
"""Networks that were exported: TorchScript (``ckpt_export``) and ONNX (``onnx_export``)."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor, nn

onnxruntime, _has_onnxruntime = optional_import("onnxruntime")

SUFFIXES = (".ts", ".onnx")
# What inferers ask of a network, and a file that holds its operations alone does not say.
_NUMBERS = ("stride", "margin", "voxel_bytes")
# What a network was told to give, which an exported one does not unlearn.
_CHOSEN = ("affine_alone", "regressor")


def load_exported(path: Path, definition: nn.Module) -> nn.Module:
    """A network out of an exported file.

    Args:
        path: ``.ts`` or ``.onnx``.
        definition: the network that was exported, for its sizes; its weights do not count.

    Raises:
        FileNotFoundError: no such file.
        ImportError: an ONNX file, and onnxruntime is not installed.
        ValueError: damaged, no such file as its name says, or exported with other options than the definition's. (An
            ONNX file does not say with which.)
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
    for name in _CHOSEN:
        if hasattr(network, name) and getattr(network, name) != getattr(definition, name):
            said = f"{name} {getattr(network, name)}, not {getattr(definition, name)}"
            raise ValueError(f"{path}: was exported with {said}: give network_def the options of the export")
    if not hasattr(network, "stride"):  # TensorRT's keep nothing but the operations
        _copy_numbers(definition, network)
    return network


def _copy_numbers(definition: nn.Module, network: nn.Module) -> None:
    for name in _NUMBERS:
        if hasattr(definition, name):
            setattr(network, name, getattr(definition, name))


class OnnxNetwork(nn.Module):
    """An ONNX file run by onnxruntime on the CPU; without derivatives.

    Args:
        path: the file.
        definition: the network that was exported.

    Raises:
        ImportError: onnxruntime is not installed.
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
        """
        Args:
            pair: ``(B, 2, *spatial)``.

        Returns:
            What the exported network gives, on the pair's device.

        Raises:
            ValueError: a pair of another size than the one that the file was exported with.
        """
        (image,) = self.session.get_inputs()
        wanted = [size if isinstance(size, int) else None for size in image.shape]
        given = list(pair.shape)
        if len(wanted) != len(given) or any(a not in (None, b) for a, b in zip(wanted, given, strict=True)):
            shape = str(given).replace(" ", "")
            raise ValueError(f"{self.path}: was exported for another size ({wanted}); give --input_shape '{shape}'")
        (result,) = self.session.run(None, {image.name: pair.detach().cpu().float().numpy()})
        return torch.from_numpy(result).to(pair.device)
