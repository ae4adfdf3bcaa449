# SPDX-License-Identifier: Apache-2.0
"""Apply a displacement field or a transform to the moving image, its labels and the landmarks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from monai.transforms import Transform

from regplugins.checks import choice, number
from regplugins.spatial import AffineTransform, CompositeTransform, DisplacementField, Grid, SpatialTransform
from regplugins.spatial.resample import outside_value, overlap, resample, resample_labels
from regplugins.transforms.timing import stage


class _ApplyPaird(Transform):
    """Base class: resample the original moving image and labels through a transform, once."""

    def __init__(
        self, interpolation: str = "linear", label_interpolation: str = "nearest", fill: float | None = None
    ) -> None:
        modes = {"linear": "linear", "nearest": "nearest"}
        self.interpolation = choice("interpolation", interpolation, modes)
        self.label_interpolation = choice("label_interpolation", label_interpolation, modes)
        self.fill = None if fill is None else number("fill", fill)

    def _apply(
        self, pair: dict[str, Any], start: AffineTransform, initial: AffineTransform, field: DisplacementField
    ) -> None:
        with stage(pair, "warp"):
            fixed_grid = Grid.from_image(pair["fixed"])
            displacement = field if field.grid.matches(fixed_grid) else field.sample(fixed_grid)
            transform = initial @ displacement
            self._resample(pair, "warped", fixed_grid, transform)
            if "moving_channels" in pair:
                source, fill = Grid.from_image(pair["moving"]), self.fill or 0.0
                pair["warped_channels"] = resample(
                    pair["moving_channels"], source, fixed_grid, transform, self.interpolation, fill
                )
            if "fixed_landmarks" in pair:
                pair["warped_landmarks"] = transform(pair["fixed_landmarks"])
        with stage(pair, "before"):
            self._resample(pair, "before", fixed_grid, start)
        with stage(pair, "invert"):
            # On the grid of the field, since the inverse on a scan with 500 voxels per axis takes gigabytes.
            inverse = field.inverse(field.grid)
        for name, values in (("field", displacement.vectors), ("inverse", inverse.vectors), ("image", pair["warped"])):
            if not values.isfinite().all():
                paths = pair["paths"]
                raise ValueError(f"{paths['moving']} to {paths['fixed']}: the resulting {name} is not finite")
        pair |= {"start": start, "initial": initial, "field": field, "inverse": inverse, "displacement": displacement}

    def _resample(self, pair: dict[str, Any], name: str, target: Grid, transform: SpatialTransform) -> None:
        image, source = pair["moving"].as_tensor(), Grid.from_image(pair["moving"])
        fill = outside_value(image, self.fill)
        pair[name] = resample(image, source, target, transform, self.interpolation, fill)
        if "moving_label" in pair:
            label = pair["moving_label"].as_tensor()
            pair[f"{name}_label"] = resample_labels(label, source, target, transform, self.label_interpolation)


class ApplyTransformPaird(_ApplyPaird):
    """Resample the original moving image and labels once through a known transform, such as one from a file.

    Adds ``initial``, the product of the affine parts of the transform (or the identity), ``field``, what acts before it
    to give the transform, and ``inverse``, the inverse of ``field``. ``displacement`` is ``field`` on the fixed image's
    grid: ``x_moving = initial(x + displacement(x))``.
    Adds ``warped``, ``warped_label`` and ``warped_landmarks`` (the fixed landmarks mapped to the moving image).
    ``start``, ``before`` and ``before_label`` are the transform and images before registration.

    Args:
        transform: from the fixed to the moving world.
        interpolation: of the image, "linear" or "nearest".
        label_interpolation: "nearest", or "linear" for linear interpolation of each label.
        fill: value outside the moving image; default: see ``outside_value``.
        start: transform before registration; default: the identity.
    """

    def __init__(
        self,
        transform: SpatialTransform,
        interpolation: str = "linear",
        label_interpolation: str = "nearest",
        fill: float | None = None,
        start: AffineTransform | None = None,
    ) -> None:
        super().__init__(interpolation, label_interpolation, fill)
        self.transform = transform
        self.start = start

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            ValueError: if the transform has another dimension than the images, or maps no voxel into the moving image.
        """
        pair = dict(data)
        grid = Grid.from_image(pair["fixed"])
        if self.transform.ndim != grid.ndim:
            raise ValueError(f"{pair['paths']['fixed']}: {grid.ndim}-D, the transform is {self.transform.ndim}-D")
        if not overlap(grid, Grid.from_image(pair["moving"]), self.transform):
            paths = pair["paths"]
            raise ValueError(f"{paths['fixed']} and {paths['moving']} do not overlap through the transform")
        identity = AffineTransform.identity(grid.ndim)
        parts = CompositeTransform([self.transform]).transforms
        affine = [part.matrix for part in parts if isinstance(part, AffineTransform)]
        # The field stays in the fixed world, where it is inverted: an affine part may lead far away before it acts.
        initial = AffineTransform(reduce(torch.matmul, affine, identity.matrix))
        self._apply(pair, self.start or identity, initial, (initial.inverse() @ self.transform).sample(grid))
        return pair


class ApplyDDFPaird(_ApplyPaird):
    """Apply the network's displacement field to the pair as ``ApplyTransformPaird`` does, with its options.

    Reads ``pred`` ``(1, n, *spatial)``, the DDF in voxels of ``grid``, and ``initial``, which is also ``start``. Of a
    bidirectional network (``SwapPaird``) it takes the first ``n`` components.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        pair = dict(data)
        # Copying to the CPU synchronizes with the GPU: the network's time ends after it.
        ddf = pair["pred"][0, : pair["grid"].ndim].detach().float().cpu()
        if "started" in pair:
            pair["seconds"]["network"] = time.perf_counter() - pair["started"]
        self._apply(pair, pair["initial"], pair["initial"], DisplacementField.from_ddf(ddf, pair["grid"]))
        return pair


class ApplyRigidPaird(_ApplyPaird):
    """Apply the rigid transform of ``RigidInferer`` to the pair as ``ApplyTransformPaird`` does, with its options.

    Reads ``pred``, an ``AffineTransform`` from the fixed to the moving world, and ``initial``, which becomes ``start``.
    ``initial`` becomes the transform, and the displacement field is the identity.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        pair = dict(data)
        identity = AffineTransform.identity(pair["grid"].ndim).sample(pair["grid"])
        self._apply(pair, pair["initial"], pair["pred"], identity)
        return pair
