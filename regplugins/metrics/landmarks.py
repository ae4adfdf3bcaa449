# SPDX-License-Identifier: Apache-2.0
"""Landmark error."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from torch import Tensor


def target_registration_error(points: Tensor, reference: Tensor) -> Tensor:
    """Distance ``(n,)`` mm between mapped landmarks and the corresponding ones, both ``(n, d)`` world mm.

    Raises:
        ValueError: if the two are not lists of the same number of points of one dimension.
    """
    if points.dim() != 2 or points.shape != reference.shape:
        raise ValueError(
            f"expected two lists (n, d) of corresponding points, got {tuple(points.shape)} and {tuple(reference.shape)}"
        )
    return (points - reference).norm(dim=1)


def landmark_statistics(error: Tensor) -> dict[str, float]:
    """Mean, median and maximum of landmark errors ``(n,)``."""
    return {"mean": float(error.mean()), "median": median(error.tolist()), "max": float(error.max())}


def landmark_errors(pair: Mapping[str, Any]) -> dict[str, Tensor]:
    """Target registration errors ``before`` and ``after``, ``(points,)`` each, mm.

    ``pair`` has ``start``, both sets of landmarks and ``warped_landmarks``.
    """
    moving = pair["moving_landmarks"]
    places = {"before": pair["start"](pair["fixed_landmarks"]), "after": pair["warped_landmarks"]}
    return {when: target_registration_error(points, moving) for when, points in places.items()}
