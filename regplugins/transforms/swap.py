# SPDX-License-Identifier: Apache-2.0
"""The other direction of a registration whose network gives both."""

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
    """Resample the fixed image to the moving image's grid by the network's field of that direction.

    Reads ``pred`` ``(1, 2 n, *spatial)``, the DDFs of both directions in voxels of ``grid``, of which
    ``ApplyDDFPaird`` takes the first, and ``initial``. Adds ``backward``, the pair with fixed and moving swapped, after
    ``ApplyTransformPaird`` and the given transforms. Adds ``cycle_error``, mm: the distance of random points of
    ``fixed_mask`` (or of ``grid``) from their image under both fields. A pair of a network of one direction stays
    unchanged.

    Args:
        transforms: what happens to the swapped pair, one after the other; it is called as the pair and "/backward".
        interpolation: of the image, "linear" or "nearest".
        label_interpolation: "nearest", or "linear" for a linear one of each class.
        fill: value of the image outside the fixed one.
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
        there, back = (DisplacementField.from_ddf(ddf.detach().float().cpu(), grid) for ddf in data["pred"][0].split(n))
        home = initial.inverse()
        carry = ApplyTransformPaird(back @ home, start=home, **self.options)
        backward = self.transforms(carry(_swapped(data)))
        points = sample_points(grid)
        if "fixed_mask" in data:
            points = sample_points(Grid.from_image(data["fixed"]), mask=data["fixed_mask"].as_tensor())
        error = inverse_consistency_error(there, back, points, grid)
        return {**data, "backward": backward, "cycle_error": error}


def _swapped(pair: Mapping[str, Any]) -> dict[str, Any]:
    """The same, under a name of its own and without the time that loading took."""
    name = f"{pair['name']}/backward" if "name" in pair else "backward"
    return swap_pair(pair) | {"name": name, "seconds": {}, "warnings": []}


def swap_pair(pair: Mapping[str, Any]) -> dict[str, Any]:
    """What was loaded of a pair (``LoadPaird``), as if the fixed image were the moving one."""
    images = {key for key in PATH_KEYS if swapped_key(key) != key}
    swapped = {swapped_key(key): pair[key] for key in images & pair.keys()}
    paths = {swapped_key(key): path for key, path in pair["paths"].items()}
    swapped |= {key: pair[key] for key in ("name", "landmark_space", "seconds", "warnings") if key in pair}
    swapped["paths"] = paths
    if "truth" in pair:
        truth = pair["truth"].inverse()
        swapped["truth"] = truth
        if "fixed_mask" in pair:  # the same part of the body is looked at, where it is in the other image
            source, target = Grid.from_image(pair["fixed"]), Grid.from_image(pair["moving"])
            mask = resample_labels(pair["fixed_mask"].as_tensor(), source, target, truth)
            swapped["fixed_mask"] = MetaTensor(mask, affine=pair["moving"].affine)
    return swapped
