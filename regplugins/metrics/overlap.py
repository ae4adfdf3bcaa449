# SPDX-License-Identifier: Apache-2.0
"""Overlap and surface distance of two label maps, structure by structure, with MONAI's metrics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
from scipy.ndimage import find_objects
from torch import Tensor


def _codes(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Number each voxel 1, 2, ... by its place in the sorted ``values``, 0 where it is none of them."""
    place = np.searchsorted(values, labels).clip(max=len(values) - 1)
    return np.where(values[place] == labels, place + 1, 0).astype(np.int32)


def _occupied(labels: np.ndarray) -> tuple[slice, ...] | None:
    """Bounding box of what is not background, None where there is only background."""
    box = []
    for axis in range(labels.ndim):
        used = np.flatnonzero(labels.any(axis=tuple(k for k in range(labels.ndim) if k != axis)))
        if len(used) == 0:
            return None
        box.append(slice(used[0], used[-1] + 1))
    return tuple(box)


def _union(a: tuple[slice, ...], b: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True))


def _present(labels: Tensor) -> set[int]:
    """The non-zero labels of a map."""
    values = labels.flatten().long()
    low, high = (int(value) for value in values.aminmax())
    # Counting takes a tenth of the time of sorting, and memory for the range of the labels.
    few = high - low < len(values)
    found = torch.bincount(values - low).nonzero().flatten() + low if few else values.unique()
    return set(found.tolist()) - {0}


def compare_label_sets(fixed: Tensor, moving: Tensor) -> tuple[list[int], list[int], list[int]]:
    """Labels of two label maps, on any grids: those of both, of the first alone and of the second alone.

    Args:
        fixed: integer labels, any shape; zero is background.
        moving: the same.

    Returns:
        Three sorted lists.
    """
    first, second = _present(fixed), _present(moving)
    return sorted(first & second), sorted(first - second), sorted(second - first)


def label_overlap(
    prediction: Tensor, reference: Tensor, spacing: Sequence[float], labels: Collection[int] | None = None
) -> dict[int, dict[str, float]]:
    """Dice, HD95 and ASD of the structures of the reference (the non-zero labels that it holds).

    Each structure is cropped to the box that it fills in either map, so that a hundred small structures of a large
    volume cost little.

    Args:
        prediction: integer labels, ``(1, *spatial)``.
        reference: integer labels, the same shape, on the same grid.
        spacing: voxel size of each spatial axis in mm.
        labels: those of the reference to judge by; default: all.

    Returns:
        For each of these labels its ``dice``, ``hd95`` (the larger of the two directed 95th percentiles) and ``asd``
        (mean over the voxels of both surfaces), both in mm between voxel centers. A structure missing from the
        prediction has Dice 0 and NaN distances.

    Raises:
        ValueError: shapes or spacing do not belong together, or labels are not integers.
    """
    if prediction.shape != reference.shape or len(spacing) != reference.dim() - 1 or reference.shape[0] != 1:
        raise ValueError(
            f"expected two label maps (1, *spatial) of one grid and a spacing per axis, got the shapes "
            f"{tuple(prediction.shape)} and {tuple(reference.shape)} and the spacing {tuple(spacing)}"
        )
    if prediction.is_floating_point() or reference.is_floating_point():
        raise ValueError(f"expected integer labels, got {prediction.dtype} and {reference.dtype}")
    a, b = prediction[0].cpu().numpy(), reference[0].cpu().numpy()
    box = _occupied(b)
    if box is None:
        return {}
    values = np.unique(b[box])
    values = values[values != 0] if labels is None else np.intersect1d(values, list(labels))
    if len(values) == 0:
        return {}
    box = _union(box, _occupied(a) or box)
    a, b = _codes(a[box], values), _codes(b[box], values)
    scores: dict[int, dict[str, float]] = {}
    for code, (value, box_a, box_b) in enumerate(
        zip(values, find_objects(a, len(values)), find_objects(b, len(values)), strict=True), start=1
    ):
        if box_a is None:
            scores[int(value)] = {"dice": 0.0, "hd95": float("nan"), "asd": float("nan")}
            continue
        crop = _union(box_a, box_b)
        pair = [torch.from_numpy(codes[crop] == code)[None, None] for codes in (a, b)]
        sizes = [float(size) for size in spacing]
        with warnings.catch_warnings():
            # MONAI calls a function of its own by an argument that it is going to remove.
            warnings.simplefilter("ignore", FutureWarning)
            dice = compute_dice(*pair, include_background=True)
            hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=sizes)
            asd = compute_average_surface_distance(*pair, include_background=True, symmetric=True, spacing=sizes)
        scores[int(value)] = {"dice": dice.item(), "hd95": hd95.item(), "asd": asd.item()}
    return scores


def mean_overlap(scores: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Mean of each figure over the structures.

    A structure missing from the prediction counts as Dice 0. It has no distances, and is left out of their means.

    Args:
        scores: of :func:`label_overlap`, of at least one structure.

    Returns:
        ``dice``, ``hd95`` and ``asd``; a distance is NaN if no structure has one.
    """
    found = [score for score in scores.values() if not math.isnan(score["asd"])]
    distances = {name: fmean(score[name] for score in found) if found else math.nan for name in ("hd95", "asd")}
    return {"dice": fmean(score["dice"] for score in scores.values()), **distances}
