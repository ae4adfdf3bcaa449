# SPDX-License-Identifier: Apache-2.0
"""Gray-value windows of the quality-control picture."""

from __future__ import annotations

import numpy as np
import torch

from regplugins.registration.intensity import otsu_threshold

Window = tuple[float, float]

# Hounsfield units: air, lower limit of the body, soft tissue, lung, bone.
_AIR, _BODY, _SOFT_TISSUE, _LUNG, _BONE = -900.0, -500.0, (-200.0, 300.0), (-950.0, -600.0), 300.0
_LUNG_WINDOW, _BONE_WINDOW, _SOFT_TISSUE_WINDOW = (-1100.0, 250.0), (-450.0, 1050.0), (-160.0, 240.0)
# Fractions of the body that choose the window of a CT, and of two windows that merge them.
_MIN_SOFT_TISSUE, _MIN_LUNG, _MIN_BONE, _MIN_COMMON = 0.5, 0.25, 0.12, 2 / 3


def image_windows(fixed: np.ndarray, moving: np.ndarray) -> tuple[Window, Window]:
    """Windows of the fixed and the moving image, equal if their intensities are comparable.

    Intensities are comparable if both images are CT in Hounsfield units, or if their windows cover nearly the same
    range. The scales of MR scanners differ by up to a factor of twenty. Values are those displayed, of any shape.
    """
    values = [part[np.isfinite(part)] for part in (fixed, moving)]
    ct = [_is_ct(part) for part in values]
    if all(ct):
        common = _ct_window(np.concatenate(values))
        return common, common
    first, second = (_ct_window(v) if is_ct else _intensity_window(v) for v, is_ct in zip(values, ct, strict=True))
    union = (min(first[0], second[0]), max(first[1], second[1]))
    shared = min(first[1], second[1]) - max(first[0], second[0])
    return (union, union) if not any(ct) and shared > _MIN_COMMON * (union[1] - union[0]) else (first, second)


def _is_ct(values: np.ndarray) -> bool:
    """True if values look like Hounsfield units: with air, and mostly soft tissue in the rest."""
    body = values[values > _BODY]
    return bool(body.size and values.min() < _AIR and _share(body, *_SOFT_TISSUE) > _MIN_SOFT_TISSUE)


def _ct_window(values: np.ndarray) -> Window:
    """Radiological window of a CT: lung, bone (head, limb) or soft tissue."""
    body = values[values > _BODY]
    if _share(values, *_LUNG) * values.size > _MIN_LUNG * body.size:
        return _LUNG_WINDOW
    return _BONE_WINDOW if _share(body, _BONE, np.inf) > _MIN_BONE else _SOFT_TISSUE_WINDOW


def _share(values: np.ndarray, low: float, high: float) -> float:
    return float(((values > low) & (values < high)).mean())


def _intensity_window(values: np.ndarray) -> Window:
    """0.5th percentile of all values to the 99.5th of those above Otsu's threshold, or a wider one of even images."""
    if values.size == 0:
        return 0.0, 1.0
    low, top = np.percentile(values, (0.5, 99.9))
    if low < top:
        clipped = np.clip(values, low, top)
        bright = values[clipped > otsu_threshold(torch.from_numpy(clipped))]
        return float(low), float(np.percentile(bright, 99.5))
    low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low - 1, high + 1)
