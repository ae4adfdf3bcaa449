# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that bring single training volumes to one grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Transform

from regplugins.checks import positive
from regplugins.spatial import (
    Grid,
    block_mean,
    resample,
    resample_labels,
    resample_to_grid,
)
from regplugins.transforms.resample import network_grid, normalize


class ResampleToGridd(Transform):
    """Bring an ``image`` and, if there is one, its ``label`` onto a grid of given size about the center of the field of
    view.

    Two images of one orientation prepared so stand to each other as ``init: fov`` brings a pair together. Adds
    ``mask``: 1 where the image is known.

    Args:
        spacing: mm.
        shape: number of voxels an axis.
    """

    def __init__(self, spacing: Sequence[float] | float, shape: Sequence[int]) -> None:
        self.spacing = spacing
        self.shape = tuple(shape)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """
        Returns:
            ``image`` ``(1, *shape)`` in [0, 1], ``mask`` ``(1, *shape)``, and ``label`` ``(1, *shape)`` int32.

        Raises:
            ValueError: a structure of the label does not fit into the grid.
        """
        source = Grid.from_image(data["image"])
        target = network_grid(source, self.spacing, self.shape)
        record = {
            "image": normalize(resample_to_grid(data["image"], target)),
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
    """Average the voxels of an ``image`` in blocks, as ``resample_to_grid`` does before it resamples to this spacing.

    Done once, it saves time where an image is resampled to such grids many times.

    Args:
        spacing: mm, one number or one an axis, the smallest of which counts.
    """

    def __init__(self, spacing: Sequence[float] | float) -> None:
        steps = spacing if isinstance(spacing, (list, tuple)) else [spacing]
        self.spacing = min(positive("spacing", step) for step in steps)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        image = data["image"]
        values, grid = block_mean(image.as_tensor(), Grid.from_image(image), self.spacing)
        return {**data, "image": MetaTensor(values, affine=grid.affine)}


class LabelChannelsd(Transform):
    """One-hot encode ``label``: ``(1, *spatial)`` integers to ``(num_classes, *spatial)`` float32, background left out.

    Args:
        num_classes: structures, labeled 1 to ``num_classes``.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        label = data["label"][0].long()
        if int(label.max()) > self.num_classes or int(label.min()) < 0:
            raise ValueError(f"labels from 0 to {self.num_classes} expected, found {label.unique().tolist()}")
        channels = F.one_hot(label, self.num_classes + 1)[..., 1:].movedim(-1, 0)
        return {**data, "label": channels.float()}
