# SPDX-License-Identifier: Apache-2.0
"""Validation scores: functions of an evaluator's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def mean_dice(output: Mapping[str, Any]) -> float:
    """Mean Dice over labels after registration.

    Raises:
        ValueError: if the pair has no labels.
    """
    if not output["metrics"].get("overlap", {}).get("after"):
        raise ValueError(
            "no label with structures for validation; without labels validate by similarity: "
            "--validation_score '$regplugins.handlers.correlation'"
        )
    return float(output["metrics"]["overlap"]["after"]["mean"]["dice"])


def correlation(output: Mapping[str, Any]) -> float:
    """NCC after registration, for validation without labels."""
    return float(output["metrics"]["similarity"]["ncc"]["after"])


def negative_endpoint_error(output: Mapping[str, Any]) -> float:
    """Negative mean endpoint error in mm after registration, for validation with known transforms.

    Raises:
        ValueError: if the pair has no true transform.
    """
    if "endpoint_error_mm" not in output["metrics"]:
        raise ValueError(
            "no true transform for validation; without one validate by labels or similarity: "
            "--validation_score '$regplugins.handlers.mean_dice' or '$regplugins.handlers.correlation'"
        )
    return -float(output["metrics"]["endpoint_error_mm"]["after"]["mean"])


def mean_true_probability(output: Sequence[Mapping[str, Any]]) -> float:
    """Mean probability of the true class ``label``; of each image ``pred`` are probabilities ``(classes,)``."""
    return sum(float(image["pred"][int(image["label"])]) for image in output) / len(output)


def folding_percent(output: Mapping[str, Any]) -> float:
    """Percentage of folded voxels."""
    return float(output["metrics"]["folding_percent"])
