# SPDX-License-Identifier: Apache-2.0
"""Tell whether two aligned images are of one modality."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.data import MetaTensor
from torch import Tensor

# Scaled intensities up to this are background: air, lung, the surroundings of a stripped brain. Its border is the same
# in all modalities.
_BACKGROUND = 0.05
_VOXELS = 100_000
_MIN_VOXELS = 200
_BINS = 16
_QUANTILES = (0.02, 0.98, 49)
# Of 56 tuning pairs of one modality 54 reach both, one fails since it is not aligned; of 127 of two, 3 do, all of them
# MR sequences of similar contrast. Brains with tumors from unlike scanners mostly do not.
_MIN_LINEARITY, _MIN_DISTRIBUTION = 0.87, 0.99
# Of photographs, by one pair of stains (0.60): a map that is not linear, but rises, does not mislead a local NCC.
_MIN_PHOTOGRAPH_LINEARITY = 0.5


def modality_statistics(pair: Tensor, mask: Tensor | None = None) -> dict[str, float]:
    """Measure how well a linear map of intensities explains a pair after its initial alignment.

    Args:
        pair: ``(2, *spatial)`` in [0, 1], moving and fixed image.
        mask: ``(*spatial)``, not zero where voxels count; default: all.

    Returns:
        Over the voxels where both images show tissue: ``linearity``, the signed squared correlation over the
        correlation ratio, 1 if no other map explains more than a linear one; and ``distribution``, the correlation of
        the quantiles, 1 if the distributions differ in scale and offset alone. Neither depends on noise, nor much on
        remaining misalignment. Both are 0 if there are too few voxels.
    """
    inside = (pair > _BACKGROUND).all(dim=0)
    if mask is not None:
        inside &= mask > 0
    values = pair[:, inside].double().cpu()
    moving, fixed = values[:, :: max(1, values.shape[1] // _VOXELS)]
    if len(moving) < _MIN_VOXELS or moving.min() == moving.max() or fixed.min() == fixed.max():
        return {"linearity": 0.0, "distribution": 0.0}
    correlation = _correlation(moving, fixed)
    explained = max(_correlation_ratio(moving, fixed), _correlation_ratio(fixed, moving))
    shares = torch.linspace(*_QUANTILES, dtype=torch.float64)
    return {
        "linearity": max(-1.0, min(1.0, correlation * abs(correlation) / max(explained, 1e-3))),
        "distribution": _correlation(moving.quantile(shares), fixed.quantile(shares)),
    }


def is_one_modality(statistics: Mapping[str, float], photographs: bool = False) -> bool:
    """Judge ``modality_statistics``; of photographs the first alone, against a lower limit.

    The limits are strict, since a method for two modalities is nearly as good for one.
    """
    if photographs:
        return statistics["linearity"] >= _MIN_PHOTOGRAPH_LINEARITY
    return statistics["linearity"] >= _MIN_LINEARITY and statistics["distribution"] >= _MIN_DISTRIBUTION


def is_photograph(image: Tensor) -> bool:
    """Tell whether an image was read from a photograph, as ``regplugins.io`` notes in its ``meta``."""
    return isinstance(image, MetaTensor) and bool(image.meta.get("photograph"))


def _correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a, b]))[0, 1].nan_to_num().item()


def _correlation_ratio(values: Tensor, explaining: Tensor) -> float:
    """Share of the variance of values between bins of others with equal counts, less what is expected by chance."""
    bins = values[explaining.argsort(stable=True)].tensor_split(_BINS)
    within = sum((part - part.mean()).square().sum().item() for part in bins)
    total = (values - values.mean()).square().sum().item()
    count = len(values)
    return 1 - within / total * (count - 1) / (count - _BINS)
