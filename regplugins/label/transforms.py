# SPDX-License-Identifier: Apache-2.0
"""What stands between a bundle's transforms and MONAI Label's app for bundles, which knows an image and a label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from regplugins.transforms import LoadPaird


class FromAtlasd(Transform):
    """In place of ``LoadPaird``: the ``image`` that is open is the fixed one, one image with its labels the moving one.

    Args:
        moving: file of the annotated image. What a request calls ``moving`` is not looked at: it would be a file of
            whoever runs the server.
        moving_label: file of its labels.
    """

    def __init__(self, moving: str | Path, moving_label: str | Path) -> None:
        self.atlas = {"moving": str(moving), "moving_label": str(moving_label)}
        self.load = LoadPaird()

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            FileNotFoundError, ValueError: as ``LoadPaird``.
        """
        return {**data, **self.load({"fixed": str(data["image"]), **self.atlas})}


class OpenedImaged(Transform):
    """Add ``image`` after ``ResamplePaird``: the network's input ``(2, *spatial)``, placed as the open image."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        fixed = data["fixed"]
        image = MetaTensor(data["pair"], meta={"spatial_shape": np.asarray(fixed.shape[1:])})
        image.meta["original_affine"] = fixed.affine.numpy()
        return {**data, "image": image}


class BatchOfOned(Transform):
    """Before ``ApplyDDFPaird``: ``pred`` ``(n, *spatial)``, as the app hands it over, to ``(1, n, *spatial)``."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {**data, "pred": data["pred"][None]}


class PropagatedLabeld(Transform):
    """After ``ApplyDDFPaird``: ``pred`` is the warped label on the grid of the image that is open, ``(1, *spatial)``,
    uint8, or int32 if there are labels of more than 255.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        label = data["warped_label"]
        small = int(label.max()) <= torch.iinfo(torch.uint8).max
        return {**data, "pred": MetaTensor(label.to(torch.uint8 if small else torch.int32), meta=data["fixed"].meta)}
