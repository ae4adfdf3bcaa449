# SPDX-License-Identifier: Apache-2.0
"""Validation scores: functions of an evaluator's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def mean_dice(output: Mapping[str, Any]) -> float:
    """Mean Dice over labels after registration, of an evaluator's output: what validation looks at.

    Raises:
        ValueError: the pair has no labels.
    """
    if not output["measures"].get("overlap", {}).get("after"):
        raise ValueError(
            "no label with structures to validate by; without labels choose epochs by similarity: "
            "--validation_score '$regplugins.handlers.correlation'"
        )
    return float(output["measures"]["overlap"]["after"]["mean"]["dice"])


def correlation(output: Mapping[str, Any]) -> float:
    """NCC after registration, of an evaluator's output: what validation looks at where there are no labels."""
    return float(output["measures"]["similarity"]["ncc"]["after"])


def negative_endpoint_error(output: Mapping[str, Any]) -> float:
    """Minus the mean endpoint error in mm after registration, of an evaluator's output: what validation looks at where
    the truth is known.

    Raises:
        ValueError: the pair has no true transform.
    """
    if "endpoint_error_mm" not in output["measures"]:
        raise ValueError(
            "no true transform to validate by; without one choose epochs by labels or similarity: "
            "--validation_score '$regplugins.handlers.mean_dice' or '$regplugins.handlers.correlation'"
        )
    return -float(output["measures"]["endpoint_error_mm"]["after"]["mean"])


def mean_true_probability(output: Sequence[Mapping[str, Any]]) -> float:
    """Mean probability of the true class, of an evaluator's decollated output.

    Args:
        output: of each image ``pred`` ``(classes,)``, probabilities, and ``label``, the number of its class.
    """
    return sum(float(image["pred"][int(image["label"])]) for image in output) / len(output)


def folding_percent(output: Mapping[str, Any]) -> float:
    """Percent of folded voxels, of an evaluator's output."""
    return float(output["measures"]["folding_percent"])
