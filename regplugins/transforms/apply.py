# SPDX-License-Identifier: Apache-2.0
"""Apply a displacement field or a transform to the moving image, its labels and the landmarks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from monai.transforms import Transform

from regplugins.checks import boolean, number
from regplugins.registration import Volume, refine_rigid
from regplugins.spatial import (
    AffineTransform,
    CompositeTransform,
    DisplacementField,
    Grid,
    SpatialTransform,
    overlap,
    resample,
    resample_labels,
)
from regplugins.transforms.timing import stage


class _Carrier(Transform):
    """Sends the original moving image and labels through a transform, once; see ``ApplyTransformPaird``."""

    def __init__(self, interpolation: str = "linear", label_interpolation: str = "nearest", fill: float = 0.0) -> None:
        for name, mode in (("interpolation", interpolation), ("label_interpolation", label_interpolation)):
            if mode not in ("linear", "nearest"):
                raise ValueError(f"{name} must be 'linear' or 'nearest', got '{mode}'")
        self.interpolation = interpolation
        self.label_interpolation = label_interpolation
        self.fill = number("fill", fill)

    def _carry(
        self, pair: dict[str, Any], start: AffineTransform, initial: AffineTransform, field: DisplacementField
    ) -> None:
        with stage(pair, "warp"):
            fixed_grid = Grid.from_image(pair["fixed"])
            displacement = field if field.grid.matches(fixed_grid) else field.sample(fixed_grid)
            transform = initial @ displacement
            self._resample(pair, "warped", fixed_grid, transform)
            if "fixed_landmarks" in pair:
                pair["warped_landmarks"] = transform(pair["fixed_landmarks"])
        with stage(pair, "before"):
            self._resample(pair, "before", fixed_grid, start)
        with stage(pair, "invert"):
            # Where the field was given: on a scan of 500 voxels an axis the inverse takes gigabytes.
            inverse = field.inverse()
        for name, values in (("field", displacement.vectors), ("inverse", inverse.vectors), ("image", pair["warped"])):
            if not values.isfinite().all():
                paths = pair["paths"]
                raise ValueError(f"{paths['moving']} to {paths['fixed']}: the {name} that came out is not finite")
        pair |= {"start": start, "initial": initial, "field": field, "inverse": inverse, "displacement": displacement}

    def _resample(self, pair: dict[str, Any], name: str, target: Grid, transform: SpatialTransform) -> None:
        source = Grid.from_image(pair["moving"])
        pair[name] = resample(pair["moving"].as_tensor(), source, target, transform, self.interpolation, self.fill)
        if "moving_label" in pair:
            label = pair["moving_label"].as_tensor()
            pair[f"{name}_label"] = resample_labels(label, source, target, transform, self.label_interpolation)


class ApplyTransformPaird(_Carrier):
    """Send the original moving image and labels through a known transform, once: one from a file, of any tool.

    Adds ``initial`` (the transform's outermost part where that is affine, else the identity), ``field`` (the rest) and
    ``inverse`` (of ``field``), ``displacement`` (``field`` on the fixed image's grid; ``x_moving = initial(x +
    displacement(x))``), ``warped``, ``warped_label``, ``warped_landmarks`` (the fixed ones carried to the moving
    image), and what registration is compared with: ``start``, ``before`` and ``before_label`` (through ``start``).

    Args:
        transform: from the fixed to the moving world.
        interpolation: of the image, "linear" or "nearest".
        label_interpolation: "nearest", or "linear" for a linear one of each class.
        fill: value of the image outside the moving one.
        start: default: the identity, the world as the files have it.
    """

    def __init__(
        self,
        transform: SpatialTransform,
        interpolation: str = "linear",
        label_interpolation: str = "nearest",
        fill: float = 0.0,
        start: AffineTransform | None = None,
    ) -> None:
        super().__init__(interpolation, label_interpolation, fill)
        self.transform = transform
        self.start = start

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            ValueError: the transform is of another dimension than the images, or takes no voxel into the moving one.
        """
        pair = dict(data)
        grid = Grid.from_image(pair["fixed"])
        if self.transform.ndim != grid.ndim:
            raise ValueError(f"{pair['paths']['fixed']}: {grid.ndim}-D, the transform is {self.transform.ndim}-D")
        if not overlap(grid, Grid.from_image(pair["moving"]), self.transform):
            paths = pair["paths"]
            raise ValueError(f"{paths['fixed']} and {paths['moving']} do not overlap through the transform")
        initial = AffineTransform.identity(grid.ndim)
        first, *others = CompositeTransform([self.transform]).transforms
        if isinstance(first, AffineTransform):
            initial = first
        else:
            others.insert(0, first)
        rest = CompositeTransform(others or [AffineTransform.identity(grid.ndim)])
        self._carry(pair, self.start or AffineTransform.identity(grid.ndim), initial, rest.sample(grid))
        return pair


class ApplyDDFPaird(_Carrier):
    """Apply the network's displacement field, as a transform in mm, to the pair as ``ApplyTransformPaird`` does.

    ``start`` is the initial transform: what the network itself adds is judged.

    Reads ``pred`` ``(1, n, *spatial)``, the DDF in voxels of ``grid``, and ``initial``; of a network of both directions
    (``SwapPaird``) the first ``n`` components.

    Args:
        interpolation: of the image, "linear" or "nearest".
        label_interpolation: "nearest", or "linear" for a linear one of each class.
        fill: value of the image outside the moving one.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        pair = dict(data)
        # Waits for the device, so that the network's time is its own.
        ddf = pair["pred"][0, : pair["grid"].ndim].detach().float().cpu()
        if "started" in pair:
            pair["seconds"]["network"] = time.perf_counter() - pair["started"]
        self._carry_through(pair, DisplacementField.from_ddf(ddf, pair["grid"]))
        return pair

    def _carry_through(self, pair: dict[str, Any], field: DisplacementField) -> None:
        self._carry(pair, pair["initial"], pair["initial"], field)


class ApplyRigidPaird(ApplyDDFPaird):
    """The same for a network whose field is a rigid motion: that goes into the affine part, ``initial``, and the field
    becomes the identity. Adds ``predicted``, the transform as the network gave it.

    Args:
        refine_rigid: maximize the mutual information from there and from the start, and keep the better.
        seed: of its choice of samples.
        interpolation: of the image, "linear" or "nearest".
        label_interpolation: "nearest", or "linear" for a linear one of each class.
        fill: value of the image outside the moving one.
        masked: where the images' masks are set. False: everywhere, for pairs whose mask says where to measure.

    Raises:
        TypeError: ``refine_rigid`` or ``masked`` is no boolean.
    """

    def __init__(
        self,
        refine_rigid: bool = True,
        seed: int = 0,
        interpolation: str = "linear",
        label_interpolation: str = "nearest",
        fill: float = 0.0,
        masked: bool = True,
    ) -> None:
        super().__init__(interpolation, label_interpolation, fill)
        self.refine_rigid = boolean("refine_rigid", refine_rigid)
        self.masked = boolean("masked", masked)
        self.seed = seed

    def _carry_through(self, pair: dict[str, Any], field: DisplacementField) -> None:
        start = pair["initial"]
        pair["predicted"] = AffineTransform(start.matrix @ AffineTransform.fitted(field, field.grid).matrix)
        transform = pair["predicted"]
        if self.refine_rigid:
            with stage(pair, "refine_rigid"):
                fixed, moving = (
                    Volume.prepare(
                        key,
                        pair[key],
                        Grid.from_image(pair[key]),
                        pair.get(f"{key}_mask") if self.masked else None,
                    )
                    for key in ("fixed", "moving")
                )
                # A network that has lost its way must not take a good start with it.
                transform = refine_rigid(fixed, moving, [transform, start], self.seed)
        self._carry(pair, start, transform, AffineTransform.identity(field.ndim).sample(field.grid))
