# SPDX-License-Identifier: Apache-2.0
"""Adapters of a bundle's transforms to MONAI Label's app for bundles, which handles one image and one label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Transform
from torch import Tensor, nn

from regplugins.inferers import RigidInferer
from regplugins.spatial import AffineTransform
from regplugins.transforms import LoadPaird

# Keys of a pair that a RigidInferer reads.
_INFERER_KEYS = ("fixed", "moving", "grid", "initial", "seconds")


class FromAtlasd(Transform):
    """Load the open ``image`` as fixed and an annotated image as moving, in place of ``LoadPaird``.

    Args:
        moving: file of the annotated image. A ``moving`` of the request is ignored, since it could be any file of the
            server.
        moving_label: file of its labels.
    """

    def __init__(self, moving: str | Path, moving_label: str | Path) -> None:
        self.atlas = {"moving": str(moving), "moving_label": str(moving_label)}
        self.load = LoadPaird()

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            FileNotFoundError: as ``LoadPaird``.
            ValueError: as ``LoadPaird``.
        """
        return {**data, **self.load({"fixed": str(data["image"]), **self.atlas})}


class OpenedImaged(Transform):
    """Add ``image`` after ``ResamplePaird``: the network's input ``(2, *spatial)`` with the open image's metadata."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        fixed = data["fixed"]
        image = MetaTensor(data["pair"], meta={"spatial_shape": np.asarray(fixed.shape[1:])})
        image.meta["original_affine"] = fixed.affine.numpy()
        image.meta["registered_pair"] = {key: data[key] for key in _INFERER_KEYS if key in data}
        return {**data, "image": image}


class AppInferer(Inferer):
    """Inferer for the app, which passes one tensor, takes one tensor, and knows no rigid transforms.

    Args:
        inferer: of the bundle.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: MetaTensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Displacements ``(1, n, *spatial)`` in voxels for ``image`` of ``OpenedImaged``, with a batch axis."""
        if not isinstance(self.inferer, RigidInferer):
            return self.inferer(inputs, network)
        pair = dict(inputs.meta["registered_pair"])
        transform = AffineTransform(
            torch.linalg.inv(pair["initial"].matrix) @ self.inferer(inputs, network, pair).matrix
        )
        return transform.sample(pair["grid"]).to_ddf()[None]


class BatchOfOned(Transform):
    """Add the batch axis to ``pred`` ``(n, *spatial)``, which the app removes, before ``ApplyDDFPaird``."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {**data, "pred": data["pred"][None]}


class PropagatedLabeld(Transform):
    """Set ``pred`` to the warped label ``(1, *spatial)``, uint8 or, for labels above 255, int32."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        label = data["warped_label"]
        small = int(label.max()) <= torch.iinfo(torch.uint8).max
        return {**data, "pred": MetaTensor(label.to(torch.uint8 if small else torch.int32), meta=data["fixed"].meta)}
