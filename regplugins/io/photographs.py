# SPDX-License-Identifier: Apache-2.0
"""Photographs, 2-D: PNG, JPEG, TIFF and BMP files, whose channels are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import itk
import numpy as np
import torch
from torch import Tensor

from regplugins.io.files import PathLike, atomic
from regplugins.io.reading import reading
from regplugins.spatial import Grid

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
# Of red, green and blue in the luminance (ITU-R BT.601).
_LUMINANCE = (0.299, 0.587, 0.114)


def is_photograph(path: PathLike) -> bool:
    """Tell by its suffix whether a file is a photograph."""
    return Path(path).suffix.lower() in _SUFFIXES


def has_pixel_size(path: PathLike) -> bool:
    """Tell whether the size of a photograph's pixels is taken from its file: of TIFF alone.

    Others hold the density for which a program printed or showed them.
    """
    return Path(path).suffix.lower() in (".tif", ".tiff")


def has_color(path: PathLike, channels: int) -> bool:
    """Tell whether the channels of a file are red, green, blue and perhaps opacity."""
    return is_photograph(path) and channels in (3, 4)


def luminance(image: Any) -> Any:
    """Image of ITK with the luminance of one in color, float32."""
    gray = itk.image_from_array(
        itk.array_from_image(image)[..., :3].astype(np.float32) @ np.array(_LUMINANCE, np.float32)
    )
    gray.SetSpacing(image.GetSpacing())
    gray.SetOrigin(image.GetOrigin())
    gray.SetDirection(image.GetDirection())
    return gray


def read_channels(path: PathLike) -> Tensor | None:
    """Read the channels ``(C, *spatial)`` of a photograph, uint8 or uint16; None of any other file."""
    if not is_photograph(path):
        return None
    with reading(path):
        image = itk.imread(str(path))
    array = itk.array_from_image(image)
    if image.GetImageDimension() != 2 or array.dtype not in (np.uint8, np.uint16):
        return None
    return torch.from_numpy(np.atleast_3d(array).T.copy())


def write_channels(values: Tensor, dtype: torch.dtype, grid: Grid, path: PathLike) -> None:
    """Write channels ``(C, *grid.shape)`` as a photograph of 8 or 16 bits; of the grid it keeps the spacing, in TIFF.

    Args:
        values: real numbers, which are rounded.
        dtype: uint8 or uint16.
        grid: grid of the pixels, 2-D.
        path: ends in ``.png`` or ``.tif``.
    """
    pixels = values.round().clamp(0, torch.iinfo(dtype).max).numpy().T
    pixels = pixels.astype(np.uint8 if dtype == torch.uint8 else np.uint16)
    has_channels = len(values) > 1
    image = itk.image_from_array(np.ascontiguousarray(pixels if has_channels else pixels[..., 0]), has_channels)
    image.SetSpacing(grid.spacing.tolist())
    with atomic(path) as temporary:
        itk.imwrite(image, str(temporary))
