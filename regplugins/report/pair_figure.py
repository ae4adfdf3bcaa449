# SPDX-License-Identifier: Apache-2.0
"""The quality-control picture of a measured pair."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from regplugins.io.nifti import NIFTI_SUFFIXES
from regplugins.registration import CHOICES
from regplugins.report.figure import registration_figure
from regplugins.report.summary import headline_metrics
from regplugins.spatial import Grid


def pair_figure(path: str | Path, pair: Mapping[str, Any], init: str | None = None) -> None:
    """Draw all that is known of a pair, see :func:`regplugins.report.registration_figure`.

    The directions of the body are named unless the fixed image is a 2-D picture: of 2-D formats NIfTI alone has them.

    Args:
        path: of the picture.
        pair: as ``EvaluatePaird`` leaves it.
        init: name of the initial alignment, or its file; None: the images were compared as their files place them.
    """
    grid = Grid.from_image(pair["fixed"])
    registration_figure(
        path,
        pair["fixed"].as_tensor(),
        pair["before"],
        pair["warped"],
        grid,
        pair["displacement"].vectors,
        before_covered=pair["before_covered"],
        warped_covered=pair["warped_covered"],
        fixed_label=pair["fixed_label"].as_tensor() if "fixed_label" in pair else None,
        before_label=pair.get("before_label"),
        warped_label=pair.get("warped_label"),
        landmarks=_landmarks(pair),
        folding_percent=pair["measures"]["folding_percent"],
        anatomical=grid.ndim == 3 or str(pair["paths"]["fixed"]).endswith(NIFTI_SUFFIXES),
        start="before registration" if init is None else f"initial alignment ({_short(init)})",
        title=pair.get("name", ""),
        subtitle=headline_metrics(pair["measures"]),
        warnings=[_with_file_names(message, pair["paths"]) for message in pair.get("warnings", [])],
    )


def _landmarks(pair: Mapping[str, Any]) -> dict[str, Tensor]:
    """The landmarks in the fixed image's world, those of the moving one as brought there before and after."""
    points = {"fixed": pair["fixed_landmarks"]} if "fixed_landmarks" in pair else {}
    if points and "moving_landmarks" in pair:
        points["before"] = pair["start"].inverse()(pair["moving_landmarks"])
        points["warped"] = pair["inverse"](pair["initial"].inverse()(pair["moving_landmarks"]))
    return points


def _short(init: str) -> str:
    """The name of an initial alignment; "file" for any file."""
    return init if init in CHOICES else "file"


def _with_file_names(message: str, paths: Mapping[str, Any]) -> str:
    """A message that names files without their folders, to fit the picture."""
    for path in sorted(map(str, paths.values()), key=len, reverse=True):
        message = message.replace(path, Path(path).name)
    return message
