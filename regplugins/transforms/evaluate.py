# SPDX-License-Identifier: Apache-2.0
"""Evaluation of one registered pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from monai.transforms import Transform
from torch import Tensor

from regplugins import metrics
from regplugins.checks import boolean
from regplugins.registration import otsu_threshold
from regplugins.spatial import AffineTransform, Grid, SpatialTransform, jacobian_determinant, resample
from regplugins.spatial.transforms import row_chunks
from regplugins.transforms.plausibility import signs_of_failure
from regplugins.transforms.timing import stage
from regplugins.transforms.warn import warn

# Largest mean endpoint error of a successful registration.
_SUCCESS_MM = 2.0


class EvaluatePaird(Transform):
    """Evaluate a registered pair (``ApplyDDFPaird``, ``ApplyTransformPaird``) and warn of what is implausible about it.

    Adds ``metrics`` (nested, without files or versions), ``warnings``, and ``before_covered`` and ``warped_covered``,
    ``(1, *spatial)`` bool: the voxels of the fixed grid that the moving image covers before and after.

    Keys of ``metrics``, those of ``before`` (through ``start``) and ``after`` first:

    - ``similarity``: NCC and mutual information (nats) over the part of the fixed grid that the moving image covers.
      A rigid network adds its own result, ``network``.
    - ``coverage_percent``: size of that part.
    - ``overlap``: Dice, HD95 and ASD (mm) by label and their means, if both labels are given. It is over the labels
      that both maps have as they were read.
    - ``labels``: number of these labels; those of the fixed map alone, of the moving map alone, and those lost.
    - ``tre_mm``: mean, median and maximum, if both sets of landmarks are given.
    - ``endpoint_error_mm``, if the true transform is known: mean and 95th percentile over the fixed image's mask, or
      all voxels. A rigid network adds ``network``.
    - ``refine_rigid_mm``: distance between the network's rigid transform and the result.
    - ``affine``, of an affine part that is not the identity: rotation angle, and length of the translation at the
      center of the fixed image's field of view.
    - ``folding_percent``, ``sd_log_jacobian`` (over the voxels that do not fold), ``sd_log_jacobian_learn2reg`` and
      ``mean_jacobian``: of the field on the network's grid.
    - ``inverse_consistency_mm``: mean and 95th percentile. ``max`` is the largest over the field's voxels, at the
      point ``max_at`` of the fixed image (RAS+ mm).
    - ``cycle_consistency_mm`` and ``backward``, of a pair that ``SwapPaird`` registered in the other direction too:
      consistency of the network's two fields, and the metrics of that direction.

    Args:
        motion: the true transform is rigid: add ``motion``, with errors of rotation (degrees) and translation (mm, at
            the center of the evaluated points), success (mean endpoint error below 2 mm), and the agreement of warped
            and true image (``warped_agreement``).
        warnings: warn of implausible results. They are normal during training.

    Raises:
        ValueError: on call, if the fixed label map holds only background.
    """

    def __init__(self, motion: bool = False, warnings: bool = True) -> None:
        self.motion = boolean("motion", motion)
        self.warnings = boolean("warnings", warnings)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        pair = dict(data)
        with stage(pair, "evaluate"):
            transforms = _transforms(pair)
            covered = {when: _covered(pair, transform) for when, transform in transforms.items()}
            pair |= {"before_covered": covered["before"], "warped_covered": covered["after"]}
            result: dict[str, Any] = {"similarity": _similarity(pair, covered)}
            result["coverage_percent"] = {when: 100 * float(part.double().mean()) for when, part in covered.items()}
            if "fixed_label" in pair and "moving_label" in pair:
                result |= _overlap(pair)
            if "fixed_landmarks" in pair and "moving_landmarks" in pair:
                errors = metrics.landmark_errors(pair)
                result["tre_mm"] = {when: metrics.landmark_statistics(error) for when, error in errors.items()}
            if {"network_transform", "truth"} & pair.keys():
                result |= self._endpoint_errors(pair, transforms)
            result |= _affine_motion(pair) | _regularity(pair)
            result["inverse_consistency_mm"] = _inverse_consistency(pair)
            if "backward" in pair:
                result["cycle_consistency_mm"] = metrics.distance_statistics(pair["cycle_error"])
                result["backward"] = pair["backward"]["metrics"]
            for message in signs_of_failure(pair, result) if self.warnings else ():
                warn(pair, message)
        return {**pair, "metrics": result}

    def _endpoint_errors(self, pair: Mapping[str, Any], transforms: Mapping[str, SpatialTransform]) -> dict[str, Any]:
        """``refine_rigid_mm``, ``endpoint_error_mm`` and ``motion``, as far as the pair has what they need."""
        points = _evaluation_points(pair)
        result: dict[str, Any] = {}
        if "network_transform" in pair:
            network = pair["network_transform"]
            result["refine_rigid_mm"] = metrics.endpoint_error(network, transforms["after"], points)
        if "truth" in pair:
            found = {
                when: metrics.endpoint_error(transform, pair["truth"], points) for when, transform in transforms.items()
            }
            result["endpoint_error_mm"] = found
            if self.motion:
                result["motion"] = _motion_errors(pair, transforms, points.mean(dim=0))
                for when, error in found.items():
                    result["motion"][when]["success"] = float(error["mean"] < _SUCCESS_MM)
        return result


def _covered(pair: Mapping[str, Any], transform: SpatialTransform) -> Tensor:
    """Voxels of the fixed grid that the moving image covers through a transform, ``(1, *spatial)`` bool."""
    grid, moving_grid = Grid.from_image(pair["fixed"]), Grid.from_image(pair["moving"])
    parts = [moving_grid.contains(transform.map_grid(grid, rows)) for rows in row_chunks(grid.shape)]
    return torch.cat(parts)[None]


def _similarity(pair: Mapping[str, Any], covered: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    fixed, moving = pair["fixed"].as_tensor(), pair["moving"]
    images = {"before": pair["before"], "after": pair["warped"]}
    if "network_transform" in pair:
        grids = Grid.from_image(moving), Grid.from_image(pair["fixed"])
        images["network"] = resample(moving.as_tensor(), *grids, pair["network_transform"])
    compared = {"ncc": metrics.normalized_correlation, "mutual_information": metrics.mutual_information}
    return {
        name: {when: metric(fixed, image, covered[when]) for when, image in images.items()}
        for name, metric in compared.items()
    }


def _overlap(pair: Mapping[str, Any]) -> dict[str, Any]:
    reference, moving = pair["fixed_label"].as_tensor(), pair["moving_label"].as_tensor()
    spacing = Grid.from_image(pair["fixed"]).spacing.tolist()
    common, only_fixed, only_moving = metrics.compare_label_sets(reference, moving)
    if not common and not only_fixed:
        raise ValueError(f"{pair['paths']['fixed_label']}: only background, no structure to evaluate")
    found: dict[str, Any] = {"labels": {"both": len(common), "only_fixed": only_fixed, "only_moving": only_moving}}
    if common:
        labels = {"before": pair["before_label"], "after": pair["warped_label"]}
        scores = {when: metrics.label_overlap(label, reference, spacing, common) for when, label in labels.items()}
        found["labels"]["lost"] = {
            when: [label for label, score in by_label.items() if math.isnan(score["asd"])]
            for when, by_label in scores.items()
        }
        found["overlap"] = {
            when: {str(label): score for label, score in by_label.items()} | {"mean": metrics.mean_overlap(by_label)}
            for when, by_label in scores.items()
        }
    return found


def _affine_motion(pair: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """``affine``: motion of the affine part at the center of the fixed image's field of view; none of an identity."""
    transform, identity = pair["initial"], AffineTransform.identity(pair["initial"].ndim)
    if torch.equal(transform.matrix, identity.matrix):
        return {}
    return {"affine": metrics.motion_error(transform, identity, Grid.from_image(pair["fixed"]).center)}


def _regularity(pair: Mapping[str, Any]) -> dict[str, float]:
    """Folding and volume change of the field on the network's grid."""
    determinant = jacobian_determinant(pair["field"].to_ddf()[None])
    names = ("folding_percent", "sd_log_jacobian", "sd_log_jacobian_learn2reg")
    result = {name: float(getattr(metrics, name)(determinant)) for name in names}
    return result | {"mean_jacobian": float(determinant.mean())}


def _evaluation_points(pair: Mapping[str, Any]) -> Tensor:
    """The voxels of the fixed image's mask, or all, ``(number, n)``, world mm."""
    grid = Grid.from_image(pair["fixed"])
    mask = pair["fixed_mask"].as_tensor() if "fixed_mask" in pair else torch.ones(1, *grid.shape)
    return grid.index_to_world(mask[0].nonzero().to(torch.float64))


def _transforms(pair: Mapping[str, Any]) -> dict[str, SpatialTransform]:
    """Transforms before and after registration, and the network's rigid transform before refinement."""
    transforms = {"before": pair["start"], "after": pair["initial"] @ pair["displacement"]}
    return transforms | ({"network": pair["network_transform"]} if "network_transform" in pair else {})


def _motion_errors(
    pair: Mapping[str, Any], transforms: Mapping[str, SpatialTransform], center: Tensor
) -> dict[str, dict[str, float]]:
    grid, moving_grid = Grid.from_image(pair["fixed"]), Grid.from_image(pair["moving"])
    true = AffineTransform.fitted(pair["truth"], grid)
    result = {
        when: metrics.motion_error(AffineTransform.fitted(transform, grid), true, center)
        for when, transform in transforms.items()
    }
    expected = resample(pair["moving"].as_tensor(), moving_grid, grid, pair["truth"])
    result["after"] |= metrics.warped_agreement(
        pair["warped"], expected, otsu_threshold(expected), grid.spacing.tolist()
    )
    return result


def _inverse_consistency(pair: Mapping[str, Any]) -> dict[str, Any]:
    field, inverse, domain = pair["field"], pair["inverse"], pair["displacement"].grid
    error = metrics.inverse_consistency_error(pair["displacement"], inverse, metrics.sample_points(domain), domain)
    result: dict[str, Any] = {**metrics.distance_statistics(error), "max": float("nan"), "max_at": None}
    for rows in row_chunks(field.grid.shape):
        points = field.grid.coordinates(rows)
        points = points[domain.contains(points) & domain.contains(field.map_grid(field.grid, rows))]
        error = metrics.inverse_consistency_error(field, inverse, points, domain)
        if len(error) and not float(error.max()) <= result["max"]:
            result |= {"max": float(error.max()), "max_at": points[error.argmax()].tolist()}
    return result
