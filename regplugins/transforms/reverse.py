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
from regplugins.transforms.carry import CarryPaird


class ReversePaird(Transform):
    """Carry the fixed image onto the moving one's grid by the network's field of that direction.

    Reads ``pred`` ``(1, 2 n, *spatial)``, the DDFs of both directions in voxels of ``grid`` (``ReturnPaird`` takes the
    first), and ``initial``. Adds ``reverse``, the pair with fixed and moving exchanged, as ``CarryPaird`` leaves it and
    the given transforms after that, and ``both_ways``: for random points of ``fixed_mask``, or without one of ``grid``,
    how far from home they are after the way there and back, mm. A pair of a network of one direction is left as it is.

    Args:
        transforms: what happens to the exchanged pair, one after the other; it is called as the pair and "/reverse".
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
        carry = CarryPaird(back @ home, start=home, **self.options)
        reverse = self.transforms(carry(_exchanged(data)))
        points = sample_points(grid)
        if "fixed_mask" in data:
            points = sample_points(Grid.from_image(data["fixed"]), mask=data["fixed_mask"].as_tensor())
        both_ways = inverse_consistency_error(there, back, points, grid)
        return {**data, "reverse": reverse, "both_ways": both_ways}


def _exchanged(pair: Mapping[str, Any]) -> dict[str, Any]:
    """The same, under a name of its own and without the time that loading took."""
    name = f"{pair['name']}/reverse" if "name" in pair else "reverse"
    return exchange(pair) | {"name": name, "seconds": {}, "warnings": []}


def exchange(pair: Mapping[str, Any]) -> dict[str, Any]:
    """What was loaded of a pair (``LoadPaird``), as if the fixed image were the moving one."""
    images = {key for key in PATH_KEYS if swapped_key(key) != key}
    exchanged = {swapped_key(key): pair[key] for key in images & pair.keys()}
    paths = {swapped_key(key): path for key, path in pair["paths"].items()}
    exchanged |= {key: pair[key] for key in ("name", "landmark_space", "seconds", "warnings") if key in pair}
    exchanged["paths"] = paths
    if "truth" in pair:
        truth = pair["truth"].inverse()
        exchanged["truth"] = truth
        if "fixed_mask" in pair:  # the same part of the body is looked at, where it is in the other image
            source, target = Grid.from_image(pair["fixed"]), Grid.from_image(pair["moving"])
            mask = resample_labels(pair["fixed_mask"].as_tensor(), source, target, truth)
            exchanged["fixed_mask"] = MetaTensor(mask, affine=pair["moving"].affine)
    return exchanged
