# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that resample training images to one grid and encode their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Transform

from regplugins.registration.image_pair import min_spacing
from regplugins.registration.network_grid import network_grid
from regplugins.spatial import Grid, antialiased, resample, resample_labels, resample_to_grid


class ResampleToGridd(Transform):
    """Resample ``image`` and, if present, ``label`` to a grid of fixed size about the center of the field of view.

    Two images of one orientation are then aligned as by ``init: fov``. Adds ``mask``: 1 inside the image's field of
    view. A record with ``label_map`` has no image: it is resampled alone, and what the grid does not hold is cut off.
    Spacing in mm; results ``(1, *shape)``, float32 and, of labels, int32.

    Raises:
        ValueError: on call, if labeled voxels lie outside the grid.
    """

    def __init__(self, spacing: Sequence[float] | float, shape: Sequence[int]) -> None:
        self.spacing = spacing
        self.shape = tuple(shape)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        if "label_map" in data:
            source = Grid.from_image(data["label_map"])
            target = network_grid(source, self.spacing, self.shape)
            return {**data, "label_map": resample_labels(data["label_map"].as_tensor(), source, target)}
        source = Grid.from_image(data["image"])
        target = network_grid(source, self.spacing, self.shape)
        record = {
            **data,
            "image": MetaTensor(resample_to_grid(data["image"], target), affine=target.affine),
            "mask": resample(torch.ones(1, *source.shape), source, target),
        }
        if "label" in data:
            label = data["label"].as_tensor()
            record["label"] = resample_labels(label, source, target)
            voxels = label[0].nonzero().to(torch.float64)
            lost = ~target.contains(source.index_to_world(voxels))
            if lost.any():
                raise ValueError(
                    f"{int(lost.sum())} labeled voxels lie outside the training grid of {self.shape} voxels"
                )
        return record


class AverageVolumed(Transform):
    """Average an ``image`` over blocks of voxels, as ``resample_to_grid`` does before resampling to this spacing (mm).

    Of one number per axis the smallest is used.
    """

    def __init__(self, spacing: Sequence[float] | float) -> None:
        self.spacing = min_spacing(spacing)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        image = data["image"]
        grid = Grid.from_image(image)
        values, grid = antialiased(image.as_tensor(), grid, [self.spacing] * grid.ndim)
        return {**data, "image": MetaTensor(values, affine=grid.affine)}


class LabelChannelsd(Transform):
    """One-hot encode ``label``: integers ``(1, *spatial)`` to classes from 1, ``(num_classes, *spatial)`` float32."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        label = data["label"][0].long()
        if int(label.max()) > self.num_classes or int(label.min()) < 0:
            raise ValueError(f"labels from 0 to {self.num_classes} expected, found {label.unique().tolist()}")
        channels = F.one_hot(label, self.num_classes + 1)[..., 1:].movedim(-1, 0)
        return {**data, "label": channels.float()}
