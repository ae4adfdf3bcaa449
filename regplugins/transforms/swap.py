# SPDX-License-Identifier: Apache-2.0
"""Backward registration of a pair by a bidirectional network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monai.data import MetaTensor
from monai.transforms import Compose, Transform

from regplugins.data.records import PATH_KEYS, swapped_key
from regplugins.metrics import inverse_consistency_error, sample_points
from regplugins.spatial import DisplacementField, Grid, resample_labels
from regplugins.transforms.apply import ApplyTransformPaird


class SwapPaird(Transform):
    """Resample the fixed image to the moving image's grid by the network's backward field.

    Reads ``initial`` and ``pred`` ``(1, 2 n, *spatial)``, the DDFs of both directions in voxels of ``grid``. Adds
    ``backward``, the pair with fixed and moving swapped, after ``ApplyTransformPaird`` and the given transforms. Adds
    ``cycle_error``, mm: the distance of random points of ``fixed_mask`` (or of ``grid``) from their image under both
    fields. Without a backward field the pair stays unchanged.

    Args:
        transforms: applied to the swapped pair, whose name ends in "/backward".
        interpolation: of the image, "linear" or "nearest".
        label_interpolation: "nearest", or "linear" for linear interpolation of each label.
        fill: value outside the fixed image.
    """

    def __init__(
        self,
        transforms: Sequence[Callable[[dict[str, Any]], dict[str, Any]]] = (),
        interpolation: str = "linear",
        label_interpolation: str = "nearest",
        fill: float = 0.0,
    ) -> None:
        self.transforms = Compose(transforms)
        self.options: dict[str, Any] = {
            "interpolation": interpolation,
            "label_interpolation": label_interpolation,
            "fill": fill,
        }

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        grid, initial = data["grid"], data["initial"]
        n = grid.ndim
        if data["pred"].shape[1] == n:
            return dict(data)
        forward_field, backward_field = (
            DisplacementField.from_ddf(ddf.detach().float().cpu(), grid) for ddf in data["pred"][0].split(n)
        )
        start = initial.inverse()
        apply = ApplyTransformPaird(backward_field @ start, start=start, **self.options)
        backward = self.transforms(apply(_swapped(data)))
        points = sample_points(grid)
        if "fixed_mask" in data:
            points = sample_points(Grid.from_image(data["fixed"]), mask=data["fixed_mask"].as_tensor())
        error = inverse_consistency_error(forward_field, backward_field, points, grid)
        return {**data, "backward": backward, "cycle_error": error}


def _swapped(pair: Mapping[str, Any]) -> dict[str, Any]:
    """Swapped pair with a name of its own, without seconds and warnings."""
    name = f"{pair['name']}/backward" if "name" in pair else "backward"
    return swap_pair(pair) | {"name": name, "seconds": {}, "warnings": []}


def swap_pair(pair: Mapping[str, Any]) -> dict[str, Any]:
    """Swap fixed and moving in all keys that ``LoadPaird`` added."""
    images = {key for key in PATH_KEYS if swapped_key(key) != key}
    swapped = {swapped_key(key): pair[key] for key in images & pair.keys()}
    paths = {swapped_key(key): path for key, path in pair["paths"].items()}
    swapped |= {key: pair[key] for key in ("name", "landmark_space", "seconds", "warnings") if key in pair}
    swapped["paths"] = paths
    if "truth" in pair:
        truth = pair["truth"].inverse()
        swapped["truth"] = truth
        if "fixed_mask" in pair:  # evaluate the same part of the body, at its position in the other image
            source, target = Grid.from_image(pair["fixed"]), Grid.from_image(pair["moving"])
            mask = resample_labels(pair["fixed_mask"].as_tensor(), source, target, truth)
            swapped["fixed_mask"] = MetaTensor(mask, affine=pair["moving"].affine)
    return swapped
