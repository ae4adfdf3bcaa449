# SPDX-License-Identifier: Apache-2.0
"""Overlap and surface distance of label maps and of warped images, by MONAI's metrics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from monai.metrics.regression import compute_ssim_and_cs
from scipy.ndimage import find_objects
from torch import Tensor


def _codes(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Number each voxel 1, 2, ... by the index of its label in the sorted ``values``, 0 if it is not among them."""
    index = np.searchsorted(values, labels).clip(max=len(values) - 1)
    return np.where(values[index] == labels, index + 1, 0).astype(np.int32)


def _foreground_box(labels: np.ndarray) -> tuple[slice, ...] | None:
    """Bounding box of the foreground, None if there is none."""
    boxes: list[tuple[slice, ...]] = find_objects((labels != 0).astype(np.uint8))
    return boxes[0] if boxes else None


def _union(a: tuple[slice, ...], b: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True))


def _present(labels: Tensor) -> set[int]:
    """Non-zero labels of a map."""
    values = labels.flatten().long()
    low, high = (int(value) for value in values.aminmax())
    # Counting takes a tenth of the time of sorting, but memory for the range of the labels.
    few = high - low < len(values)
    found = torch.bincount(values - low).nonzero().flatten() + low if few else values.unique()
    return set(found.tolist()) - {0}


def compare_label_sets(fixed: Tensor, moving: Tensor) -> tuple[list[int], list[int], list[int]]:
    """Sorted labels without background of two maps of any shape: of both, of the first alone, of the second alone."""
    first, second = _present(fixed), _present(moving)
    return sorted(first & second), sorted(first - second), sorted(second - first)


def label_overlap(
    prediction: Tensor, reference: Tensor, spacing: Sequence[float], labels: Collection[int] | None = None
) -> dict[int, dict[str, float]]:
    """Dice, HD95 and ASD of the structures of the reference (its non-zero labels).

    Each structure is cropped to its bounding box in both maps, so that many small structures are evaluated fast.

    Args:
        prediction: integer labels, ``(1, *spatial)``.
        reference: integer labels on the same grid.
        spacing: voxel size of each spatial axis in mm.
        labels: labels of the reference to evaluate; default: all.

    Returns:
        For each label ``dice``, ``hd95`` (the larger of the two directed 95th percentiles) and ``asd`` (mean over the
        voxels of both surfaces), in mm between voxel centers. A structure missing from the prediction has Dice 0 and
        NaN distances.

    Raises:
        ValueError: if shapes or spacing do not match, or labels are not integers.
    """
    if prediction.shape != reference.shape or len(spacing) != reference.dim() - 1 or reference.shape[0] != 1:
        raise ValueError(
            f"expected two label maps (1, *spatial) of one grid and a spacing per axis, got the shapes "
            f"{tuple(prediction.shape)} and {tuple(reference.shape)} and the spacing {tuple(spacing)}"
        )
    if prediction.is_floating_point() or reference.is_floating_point():
        raise ValueError(f"expected integer labels, got {prediction.dtype} and {reference.dtype}")
    a, b = prediction[0].cpu().numpy(), reference[0].cpu().numpy()
    box = _foreground_box(b)
    if box is None:
        return {}
    values = np.unique(b[box])
    values = values[values != 0] if labels is None else np.intersect1d(values, list(labels))
    if len(values) == 0:
        return {}
    box = _union(box, _foreground_box(a) or box)
    a, b = _codes(a[box], values), _codes(b[box], values)
    scores: dict[int, dict[str, float]] = {}
    boxes = zip(find_objects(a, len(values)), find_objects(b, len(values)), strict=True)
    for code, (value, (box_a, box_b)) in enumerate(zip(values, boxes, strict=True), start=1):
        if box_a is None:
            scores[int(value)] = {"dice": 0.0, "hd95": math.nan, "asd": math.nan}
        else:
            crop = _union(box_a, box_b)
            scores[int(value)] = _compare(a[crop] == code, b[crop] == code, [float(size) for size in spacing])
    return scores


def _compare(prediction: np.ndarray, reference: np.ndarray, spacing: list[float]) -> dict[str, float]:
    """Dice, HD95 and ASD of one structure by MONAI."""
    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    with warnings.catch_warnings():
        # MONAI calls its own function with a deprecated argument.
        warnings.simplefilter("ignore", FutureWarning)
        dice = compute_dice(*pair, include_background=True)
        hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
        asd = compute_average_surface_distance(*pair, include_background=True, symmetric=True, spacing=spacing)
    return {"dice": dice.item(), "hd95": hd95.item(), "asd": asd.item()}


def mean_overlap(scores: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Mean ``dice``, ``hd95`` and ``asd`` over the structures of :func:`label_overlap`, at least one.

    A structure missing from the prediction counts as Dice 0. It is left out of the mean distances, which are NaN if no
    structure has one.
    """
    found = [score for score in scores.values() if not math.isnan(score["asd"])]
    distances = {name: fmean(score[name] for score in found) if found else math.nan for name in ("hd95", "asd")}
    return {"dice": fmean(score["dice"] for score in scores.values()), **distances}


_WINDOW = 7


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def warped_agreement(
    found: Tensor, true: Tensor, threshold: float, spacing: Sequence[float], tolerance: float = 2.0
) -> dict[str, float]:
    """Overlap of the patient, of the patient's contours, and of the intensities (Islam et al. 2021).

    Args:
        found: ``(1, *spatial)``, warped by the transform that was found.
        true: ``(1, *spatial)``, warped by the true transform.
        threshold: intensity above which a voxel belongs to the patient.
        spacing: mm.
        tolerance: mm within which contours agree.

    Returns:
        ``dice``, ``jaccard``, ``precision``, ``sensitivity``; ``contour``, the share of both contours within the
        tolerance of the other (Nikolov et al. 2018; the paper's printed score is Dice's); ``ssim`` (Wang et al. 2004,
        box of 7 voxels). NaN where the patient is nowhere.
    """
    masks = [image > threshold for image in (found, true)]
    both = float((masks[0] & masks[1]).sum())
    sizes = [float(mask.sum()) for mask in masks]
    channels = [torch.stack([~mask, mask], dim=1).float() for mask in masks]
    contour = compute_surface_dice(*channels, [tolerance], include_background=False, spacing=tuple(spacing))
    value_range = float(true.max() - true.min())
    ssim, _ = compute_ssim_and_cs(
        found[None].float(),
        true[None].float(),
        spatial_dims=found.ndim - 1,
        kernel_size=[min(_WINDOW, size) for size in found.shape[1:]],
        kernel_sigma=[1.5] * (found.ndim - 1),
        data_range=value_range,
        kernel_type="uniform",
    )
    return {
        "dice": _share(2 * both, sum(sizes)),
        "jaccard": _share(both, sum(sizes) - both),
        "precision": both / sizes[0] if sizes[0] else 0.0,
        "sensitivity": _share(both, sizes[1]),
        "contour": float(contour),
        "ssim": float(ssim.mean()),
    }
