# SPDX-License-Identifier: Apache-2.0
"""Signs that a registration failed, as warnings about the pair.

The limits lie well beyond what registrations of real pairs that succeeded show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_erosion, binary_fill_holes, uniform_filter
from scipy.stats import wilcoxon
from torch import Tensor

from regplugins.metrics import histogram_information, landmark_errors, normalized_correlation, subsample_volume
from regplugins.registration.intensity import otsu_threshold
from regplugins.spatial import Grid

_SAMPLE_VOXELS, _BINS, _MIN_SAMPLE, _WINDOW = 1 << 17, 32, 1000, 7
# Aligned CT and MR have at least 0.14 nat, even in small crops; misaligned ones mostly below 0.1.
_MIN_INFORMATION = 0.12
# Limits against the start: ratio of mutual information, loss of NCC of similar images, loss of Dice.
_MIN_INFORMATION_RATIO, _SIMILAR_NCC, _MAX_LOSS_OF_NCC, _MAX_LOSS_OF_DICE = 0.9, 0.5, 0.1, 0.05
# Interpolation alone lowers the rank information of identical images by a third; NCC is robust to that.
_MATCHED = 0.98
# Smallest number of points and largest p of the paired test for small increases of the TRE.
_MIN_POINTS, _MAX_P = 10, 0.01
# Coverage: percent of the fixed image, ratio to the start, and fraction of the moving field of view.
_MIN_COVERAGE, _MIN_COVERAGE_RATIO, _MIN_PART_OF_MOVING = 10.0, 0.5, 1e-3
_MAX_VOLUME_RATIO, _MAX_FOLDING_PERCENT = 8.0, 5.0
_NAMED = 8  # labels in a message


def signs_of_failure(pair: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence per sign that the registration of a pair with these metrics of ``EvaluatePaird`` failed.

    A sentence begins with a file name.
    """
    # Mean ratio of a volume in the moving image to that in the fixed one.
    volume_ratio = float(torch.linalg.det(pair["initial"].matrix)) * metrics["mean_jacobian"]
    yield from _coverage(pair, metrics["coverage_percent"], volume_ratio)
    yield from _similarity(pair)
    yield from _orientation(pair)
    if "tre_mm" in metrics:
        yield from _landmarks(pair, metrics["tre_mm"])
    if "labels" in metrics:
        yield from _labels(pair, metrics)
    yield from _transform(pair, metrics["folding_percent"], volume_ratio)


def _coverage(pair: Mapping[str, Any], coverage: Mapping[str, float], volume_ratio: float) -> Iterator[str]:
    path = pair["paths"]["moving"]
    before, after = coverage["before"], coverage["after"]
    if max(after, _foreground_coverage(pair)) < _MIN_COVERAGE or after < _MIN_COVERAGE_RATIO * before:
        yield (
            f"{path}: covers {after:.3g} % of the fixed image after registration ({before:.3g} % before); "
            "check the initial transform and the voxel sizes"
        )
    grid, moving_grid = Grid.from_image(pair["fixed"]), Grid.from_image(pair["moving"])
    part = after / 100 * _volume(grid) * volume_ratio / _volume(moving_grid)
    if 0 < part < _MIN_PART_OF_MOVING:
        yield (
            f"{path}: only {100 * part:.2g} % of its field of view lies in the fixed image; "
            "check the voxel sizes of both images"
        )


def _samples(pair: Mapping[str, Any], *names: str) -> list[Tensor]:
    """Subsampled fixed image, its mask, and volumes on its grid."""
    fixed = pair["fixed"].as_tensor()
    shown = pair["fixed_mask"].as_tensor() != 0 if "fixed_mask" in pair else torch.ones_like(fixed, dtype=torch.bool)
    volumes = (fixed, shown, *(pair[name] for name in names))
    return [subsample_volume(volume, _SAMPLE_VOXELS)[0] for volume in volumes]


def _foreground_coverage(pair: Mapping[str, Any]) -> float:
    """Percent of the fixed image's bright voxels that the moving image covers: padding should not count."""
    fixed, _, covered = _samples(pair, "warped_covered")
    if fixed.min() == fixed.max():
        return 0.0
    return 100 * float(covered[fixed > otsu_threshold(fixed)].double().mean())


def _similarity(pair: Mapping[str, Any]) -> Iterator[str]:
    """Compare before and after over the voxels that the moving image covers both times."""
    names = ("before", "warped", "before_covered", "warped_covered")
    fixed, shown, before, after, *covered = _samples(pair, *names)
    common = covered[0] & covered[1] & shown
    if common.sum() < _MIN_SAMPLE:
        return
    ranks = [_ranks(image, common) for image in (fixed, before, after)]
    first, second = (_information(ranks[0], image, common) for image in ranks[1:])
    ncc = [normalized_correlation(fixed, image, common) for image in (before, after)]
    path, changes = pair["paths"]["moving"], []
    if second < _MIN_INFORMATION_RATIO * first and ncc[1] < _MATCHED:
        changes.append(f"mutual information {100 * (second / first - 1):.0f} %")
    if ncc[0] > _SIMILAR_NCC and ncc[1] < ncc[0] - _MAX_LOSS_OF_NCC:
        changes.append(f"NCC {ncc[0]:.3f} → {ncc[1]:.3f}")
    if changes:
        yield (
            f"{path}: less like the fixed image after registration than before, over what it covers both times "
            f"({', '.join(changes)}); look at the result before you use it"
        )
    if second < _MIN_INFORMATION:
        yield (
            f"{path}: hardly like the fixed image after registration (mutual information of ranks {second:.2f} nat, of "
            "scans that match mostly above 0.2); check the initial transform and that both show the same part of a body"
        )


def _ranks(image: Tensor, mask: Tensor) -> Tensor:
    """Number of the quantile bin within a mask that each voxel falls into.

    Bins of equal width would put all soft tissue of a CT into one or two, and the value would hang on their border.
    """
    edges = np.quantile(image[mask].numpy(), np.linspace(0, 1, _BINS + 1)[1:-1])
    return torch.bucketize(image.contiguous(), torch.from_numpy(edges).to(image))


def _information(first: Tensor, second: Tensor, mask: Tensor) -> float:
    """Mutual information of two images' ranks within a mask, nats, less what independent images have by chance."""
    joint = torch.bincount(first[mask] * _BINS + second[mask], minlength=_BINS**2)
    chance = (_BINS - 1) ** 2 / (2 * int(mask.sum()))
    return max(0.0, histogram_information(joint.double().view(_BINS, _BINS)) - chance)


def _orientation(pair: Mapping[str, Any]) -> Iterator[str]:
    """Compare the similarity inside both foregrounds with that after rotations of 180 degrees about each axis.

    Outlines and backgrounds also agree in wrong poses; tissue does not. Mutual information alone prefers some rotated
    brains of other people, where coil sensitivity varies; local correlation alone is noisy.
    """
    fixed, shown, warped, inside = _samples(pair, "warped", "warped_covered")
    masks = [_foreground(image, part) for image, part in ((fixed, shown), (warped, inside))]
    common = masks[0] & masks[1]
    if common.sum() < _MIN_SAMPLE:
        return
    box = tuple(slice(int(places.min()), int(places.max()) + 1) for places in common.nonzero(as_tuple=True))
    first, second = (_ranks(image, mask)[box] for image, mask in zip((fixed, warped), masks, strict=True))
    here, there = (mask[box] for mask in masks)
    own = [measure(first, second, here & there) for measure in (_information, _local_correlation)]
    for axes in combinations(range(1, fixed.ndim), 2):
        mask, image = here & there.flip(axes), second.flip(axes)
        if mask.sum() < _MIN_SAMPLE or _information(first, image, mask) <= own[0]:
            continue
        if _local_correlation(first, image, mask) > own[1]:
            yield (
                f"{pair['paths']['moving']}: inside both foregrounds it would match the fixed image better after half "
                "a turn; check that it is not upside down and that both show the same part of a body"
            )
            return


def _local_correlation(first: Tensor, second: Tensor, mask: Tensor) -> float:
    """Mean squared correlation of two images in the windows about the voxels of a mask; NaN if no window is filled."""
    size = [1, *(min(_WINDOW, length) for length in mask.shape[1:])]

    def mean(image: np.ndarray) -> np.ndarray:
        return np.asarray(uniform_filter(image * weight, size, mode="constant")) / share

    weight = mask.numpy().astype(np.float64)
    share = np.maximum(uniform_filter(weight, size, mode="constant"), 1e-9)
    a, b = first.numpy().astype(np.float64), second.numpy().astype(np.float64)
    mean_a, mean_b = mean(a), mean(b)
    variance = (mean(a * a) - mean_a**2) * (mean(b * b) - mean_b**2)
    square = (mean(a * b) - mean_a * mean_b) ** 2
    filled = mask.numpy() & (share > 0.5)
    return float((square / np.maximum(variance, 1e-3))[filled].mean()) if filled.any() else math.nan


def _foreground(image: Tensor, mask: Tensor) -> Tensor:
    """Voxels within a mask that Otsu's threshold, or an outline made by it, encloses; without their border."""
    if not mask.any():
        return mask
    bright = (image > otsu_threshold(image[mask])) & mask
    inner = binary_erosion(binary_fill_holes(bright[0].numpy()) & mask[0].numpy(), border_value=1)
    return torch.from_numpy(inner)[None]


def _landmarks(pair: Mapping[str, Any], tre: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Warn if the mean grew by half a voxel of the fixed image or significantly, or the maximum by a network voxel."""
    own = Grid.from_image(pair["fixed"])
    half_a_voxel, network_voxel = float(own.spacing.mean()) / 2, float(pair.get("grid", own).spacing.max())
    before, after = (tre[when]["mean"] for when in ("before", "after"))
    largest = [tre[when]["max"] for when in ("before", "after")]
    evidence = ""
    if after <= before + half_a_voxel and largest[1] <= largest[0] + network_voxel:
        # Errors below half a voxel are good, and increases below a twentieth of a voxel negligible.
        if after <= max(half_a_voxel, before + half_a_voxel / 10):
            return
        errors = landmark_errors(pair)
        count = len(errors["after"])
        if count < _MIN_POINTS:
            return
        p = wilcoxon((errors["after"] - errors["before"]).numpy(), alternative="greater").pvalue
        if not p < _MAX_P:
            return
        evidence = f", Wilcoxon test over {count} points: p = {p:.1g}"
    which = "" if after > before else "at the worst landmark "
    yield (
        f"{pair['paths']['moving_landmarks']}: {which}farther from the fixed landmarks after registration than before "
        f"(mean {before:.2f} → {after:.2f} mm, maximum {largest[0]:.2f} → {largest[1]:.2f} mm{evidence})"
    )


def _labels(pair: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    path, labels = pair["paths"]["moving_label"], metrics["labels"]
    if not labels["both"]:
        yield f"{path}: no label in common with {pair['paths']['fixed_label']}, so that no overlap is measured"
        return
    before, after = (metrics["overlap"][when]["mean"]["dice"] for when in ("before", "after"))
    if after < before - _MAX_LOSS_OF_DICE:
        yield f"{path}: overlaps less after registration than before (mean Dice {before:.3f} → {after:.3f})"
    if lost := labels["lost"]["after"]:
        names = ", ".join(map(str, lost[:_NAMED])) + (f" and {len(lost) - _NAMED} more" if lost[_NAMED:] else "")
        yield f"{path}: lost by the transform: label {names}; counted as Dice 0, left out of the mean distances"


def _transform(pair: Mapping[str, Any], folding: float, volume_ratio: float) -> Iterator[str]:
    path, field = pair["paths"]["moving"], pair["field"]
    if not 1 / _MAX_VOLUME_RATIO < volume_ratio < _MAX_VOLUME_RATIO:
        mirrored = ", so it mirrors the image" if volume_ratio < 0 else ""
        yield (
            f"{path}: the transform changes volumes by a factor of {volume_ratio:.3g} on average{mirrored}; "
            "check the initial transform"
        )
    if folding > _MAX_FOLDING_PERCENT:
        yield f"{path}: the deformation folds at {folding:.1f} % of the voxels"
    grid = Grid.from_image(pair["fixed"])
    diagonal = float((torch.tensor(grid.shape) * grid.spacing).norm())
    vectors = field.vectors.flatten(1)
    # A shift of the whole image is the offset between two scanners' worlds.
    longest = float((vectors - vectors.mean(dim=1, keepdim=True)).norm(dim=0).max())
    if longest > diagonal:
        yield f"{path}: displacements of {longest:.0f} mm exceed the {diagonal:.0f} mm of the fixed image"


def _volume(grid: Grid) -> float:
    """Volume of the field of view, in mm to the power of its dimension."""
    return float((torch.tensor(grid.shape) * grid.spacing).prod())
