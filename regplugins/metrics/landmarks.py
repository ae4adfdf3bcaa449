# SPDX-License-Identifier: Apache-2.0
"""Landmark error."""

from __future__ import annotations

from statistics import median

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
