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
        options: of ``ApplyTransformPaird``: ``interpolation``, ``label_interpolation`` and ``fill``.
    """

    def __init__(self, transforms: Sequence[Callable[[dict[str, Any]], dict[str, Any]]] = (), **options: Any) -> None:
        self.transforms = Compose(transforms)
        self.options = options

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        grid, initial = data["grid"], data["initial"]
        n = grid.ndim
        if data["pred"].shape[1] == n:
            return dict(data)
        forward_field, backward_field = (
            DisplacementField.from_ddf(ddf.detach().float().cpu(), grid) for ddf in data["pred"][0].split(n)
        )
        start = initial.inverse()
        # A pair with a name of its own, without seconds and warnings.
        name = f"{data['name']}/backward" if "name" in data else "backward"
        swapped = swap_pair(data) | {"name": name, "seconds": {}, "warnings": []}
        apply = ApplyTransformPaird(backward_field @ start, start=start, **self.options)
        backward = self.transforms(apply(swapped))
        points = sample_points(grid)
        if "fixed_mask" in data:
            points = sample_points(Grid.from_image(data["fixed"]), mask=data["fixed_mask"].as_tensor())
        error = inverse_consistency_error(forward_field, backward_field, points, grid)
        return {**data, "backward": backward, "cycle_error": error}


def swap_pair(pair: Mapping[str, Any]) -> dict[str, Any]:
    """Swap fixed and moving in all keys that ``LoadPaird`` added; what was chosen holds for both directions."""
    images = {key for key in PATH_KEYS if swapped_key(key) != key}
    swapped = {swapped_key(key): pair[key] for key in images & pair.keys()}
    swapped |= {key: pair[key] for key in ("name", "landmark_space", "seconds", "warnings", "chosen") if key in pair}
    swapped["paths"] = {swapped_key(key): path for key, path in pair["paths"].items()}
    if "truth" in pair:
        truth = swapped["truth"] = pair["truth"].inverse()
        if "fixed_mask" in pair:  # evaluate the same part of the body, at its position in the other image
            source, target = Grid.from_image(pair["fixed"]), Grid.from_image(pair["moving"])
            mask = resample_labels(pair["fixed_mask"].as_tensor(), source, target, truth)
            swapped["fixed_mask"] = MetaTensor(mask, affine=pair["moving"].affine)
    return swapped
