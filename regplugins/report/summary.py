# SPDX-License-Identifier: Apache-2.0
"""Report of a registered pair (``report.json``), its row of ``summary.csv`` and its headline."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import regplugins
from regplugins.io import atomic, json_text, none_for_nan, sha256
from regplugins.networks import listed_sha256

_PACKAGES = ("monai", "torch", "numpy", "itk")
# Units of metrics whose names in a report do not contain them.
_UNITS = {"hd95": "mm", "asd": "mm", "mutual_information": "nat", "seconds": "s"}
# Units of columns of a row, by the beginning of their names.
_COLUMN_UNITS = _UNITS | dict.fromkeys(("tre", "endpoint_error", "inverse_consistency", "cycle_consistency"), "mm")
_WHEN = ("before", "after")
# Names and columns of metrics before and after, without "_before" and "_after".
COMPARED = {
    "NCC": "ncc",
    "mutual information": "mutual_information",
    "Dice": "dice_mean",
    "HD95": "hd95_mean",
    "TRE mean": "tre_mean",
    "TRE maximum": "tre_max",
    "endpoint error": "endpoint_error_mean",
}
_HEADLINE = ("NCC", "Dice", "HD95", "TRE mean", "TRE maximum")
_OF_THE_FIELD = ("folding_percent", "sd_log_jacobian", "sd_log_jacobian_learn2reg", "mean_jacobian")


def versions() -> dict[str, str | None]:
    """Versions of this package, Python and the main dependencies; None for packages without metadata."""
    found: dict[str, str | None] = {"regplugins": regplugins.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def pair_report(
    name: str,
    metrics: Mapping[str, Any],
    seconds: Mapping[str, float],
    inputs: Mapping[str, str | os.PathLike[str]],
    weights: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Content of ``report.json`` of a pair, for :func:`write_json`.

    Args:
        name: of the pair.
        metrics: of :class:`regplugins.transforms.evaluate.EvaluatePaird`.
        seconds: by stage.
        inputs: path of each input file or DICOM folder, by its key, such as "fixed".
        weights: file of the network's weights; None for a method without.
        settings: of the registration.
    """
    return {
        "name": name,
        **metrics,
        "units": _UNITS,
        "seconds": {**seconds, "total": sum(seconds.values())},
        "versions": versions(),
        "weights": None if weights is None else _weights(weights),
        "settings": dict(settings or {}),
        "inputs": {key: _file(path) for key, path in inputs.items()},
    }


def write_json(report: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a report as strict JSON (see ``json_text``), completely or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(json_text(report) + "\n", encoding="utf-8")


def summary_row(report: Mapping[str, Any]) -> dict[str, str | float | None]:
    """Row of a report, or of its metrics alone, in ``summary.csv``: name and main metrics; None: missing.

    The columns are always the same, but for those of ``motion`` and of a refined rigid network. Overlap is the mean
    over labels, distances are in mm, ``seconds`` is the total.
    """
    row: dict[str, str | float | None] = {"name": report.get("name")}
    for metric in ("ncc", "mutual_information"):
        row |= {f"{metric}_{when}": _look_up(report, "similarity", metric, when) for when in _WHEN}
    row |= {f"coverage_percent_{when}": _look_up(report, "coverage_percent", when) for when in _WHEN}
    for metric in ("dice", "hd95", "asd"):
        row |= {f"{metric}_mean_{when}": _look_up(report, "overlap", when, "mean", metric) for when in _WHEN}
    lost = _look_up(report, "labels", "lost", "after")
    row |= {"labels": _look_up(report, "labels", "both"), "labels_lost": None if lost is None else len(lost)}
    for statistic in ("mean", "median", "max"):
        row |= {f"tre_{statistic}_{when}": _look_up(report, "tre_mm", when, statistic) for when in _WHEN}
    for statistic in ("mean", "p95"):
        for when in _WHEN:
            row[f"endpoint_error_{statistic}_{when}"] = _look_up(report, "endpoint_error_mm", when, statistic)
        if "network" in report.get("endpoint_error_mm", {}):
            row[f"endpoint_error_{statistic}_network"] = _look_up(report, "endpoint_error_mm", "network", statistic)
    row |= {f"affine_{part}": _look_up(report, "affine", part) for part in ("rotation_degrees", "translation_mm")}
    row |= {metric: report.get(metric) for metric in _OF_THE_FIELD}
    for statistic in ("mean", "p95"):
        row[f"inverse_consistency_{statistic}"] = _look_up(report, "inverse_consistency_mm", statistic)
        row[f"cycle_consistency_{statistic}"] = _look_up(report, "cycle_consistency_mm", statistic)
    for when, scores in report.get("motion", {}).items():
        row |= {f"{score}_{when}": value for score, value in scores.items()}
    return row | {"seconds": _look_up(report, "seconds", "total")}


def column_unit(column: str) -> str:
    """Unit of a column of ``summary_row``; empty if it has none or its name contains it."""
    metric = column.removeprefix("backward_")
    return next((unit for name, unit in _COLUMN_UNITS.items() if metric.startswith(name)), "")


def headline_metrics(metrics: Mapping[str, Any]) -> str:
    """Headline metrics of a pair in one line, for its picture, from its metrics or the report that holds them."""
    row = none_for_nan(summary_row(metrics))
    parts = []
    for name in _HEADLINE:
        before, after = (row[f"{COMPARED[name]}_{when}"] for when in _WHEN)
        if before is not None and after is not None:
            unit = column_unit(COMPARED[name])
            digits = 2 if unit else 3
            parts.append(f"{name} {before:.{digits}f} → {after:.{digits}f} {unit}".rstrip())
    if row["affine_rotation_degrees"] is not None:
        motion = f"{row['affine_rotation_degrees']:.1f}°, translation {row['affine_translation_mm']:.1f} mm"
        parts.append(f"affine part: rotation {motion}")
    if row["sd_log_jacobian"] is not None:
        parts.append(f"SD log J {row['sd_log_jacobian']:.3f}")
    if row["inverse_consistency_p95"] is not None:
        parts.append(f"inverse consistency {row['inverse_consistency_p95']:.2f} mm (95th percentile)")
    return " · ".join(parts)


def _weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A file of weights; ``matches_metadata`` is None if the bundle's metadata do not list it."""
    entry, listed = _file(path), listed_sha256(Path(path))
    return {**entry, "matches_metadata": None if listed is None else entry["sha256"] == listed}


def _file(path: str | os.PathLike[str]) -> dict[str, str]:
    return {"path": str(path), "sha256": sha256(path)}


def _look_up(report: Mapping[str, Any], *keys: str) -> Any:
    """Nested value; None if a key is missing."""
    value: Any = report
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
