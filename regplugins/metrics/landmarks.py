# SPDX-License-Identifier: Apache-2.0
"""Landmark error."""

from __future__ import annotations

from statistics import median

from torch import Tensor


def target_registration_error(points: Tensor, reference: Tensor) -> Tensor:
    """Distance of each landmark from where it belongs.

    Args:
        points: landmarks carried by a transform, ``(n, d)`` world mm.
        reference: the corresponding landmarks of the other image, ``(n, d)`` world mm, in the same order and the same
            space.

    Returns:
        ``(n,)`` mm.

    Raises:
        ValueError: the two are not lists of equally many points of the same dimension.
    """
    if points.dim() != 2 or points.shape != reference.shape:
        raise ValueError(
            f"expected two lists (n, d) of corresponding points, got {tuple(points.shape)} and {tuple(reference.shape)}"
        )
    return (points - reference).norm(dim=1)


def landmark_statistics(error: Tensor) -> dict[str, float]:
    """Mean, median and maximum of the landmark errors ``(n,)``."""
    return {"mean": float(error.mean()), "median": median(error.tolist()), "max": float(error.max())}
