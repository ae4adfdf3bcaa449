# SPDX-License-Identifier: Apache-2.0
"""`evaluate` and `report`: evaluate a registration from its files, and report it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import regplugins

logger = logging.getLogger(__name__)


def evaluate(
    warped_label: str | None = None,
    fixed_label: str | None = None,
    warped_landmarks: str | None = None,
    moving_landmarks: str | None = None,
    transform: str | None = None,
    landmark_space: str = "RAS",
    moving_label: str | None = None,
) -> dict[str, Any]:
    """Evaluate a registration of any tool from its files: label overlap, landmark error, folding.

    Args:
        warped_label: label map after registration; with fixed_label it gives Dice, HD95 and ASD (mm).
        fixed_label: label map on the same grid.
        warped_landmarks: CSV of landmarks after registration; with moving_landmarks it gives the target registration
            error (mm).
        moving_landmarks: CSV of the true landmarks, in the same order.
        transform: displacement field (.nii.gz); gives the share of folded voxels and the spread of log Jacobian.
        landmark_space: coordinate system of both CSV files, "RAS" or "LPS".
        moving_label: label map before registration. With it the means are over the labels that both scans have.
            Without it they are over all labels of fixed_label, since registration may have lost a label.
    """
    result: dict[str, Any] = {}
    if _both(warped_label=warped_label, fixed_label=fixed_label):
        result |= _overlap(str(warped_label), str(fixed_label), moving_label)
    elif moving_label is not None:
        raise ValueError("--moving_label says nothing without --warped_label and --fixed_label")
    if _both(warped_landmarks=warped_landmarks, moving_landmarks=moving_landmarks):
        points = [regplugins.io.read_landmarks(path, landmark_space) for path in (warped_landmarks, moving_landmarks)]
        if points[0].shape != points[1].shape:
            shapes = [tuple(part.shape) for part in points]
            raise ValueError(f"{warped_landmarks} and {moving_landmarks}: points {shapes[0]} and {shapes[1]}")
        error = regplugins.metrics.target_registration_error(*points)
        result["tre_mm"] = {**regplugins.metrics.landmark_statistics(error), "n": len(error)}
    if transform is not None:
        ddf = regplugins.io.read_displacement(transform).to_ddf()[None]
        determinant = regplugins.spatial.jacobian_determinant(ddf)
        for name in ("folding_percent", "sd_log_jacobian", "sd_log_jacobian_learn2reg"):
            result[name] = float(getattr(regplugins.metrics, name)(determinant))
    if not result:
        raise ValueError("nothing to evaluate: give two label maps, two landmark files or a transform")
    return result


def _overlap(warped_label: str, fixed_label: str, moving_label: str | None) -> dict[str, Any]:
    """Compute ``overlap`` by label with its means, and list under ``labels`` those that count and those missing."""
    warped, fixed = (regplugins.io.load_label(path) for path in (warped_label, fixed_label))
    grid = regplugins.spatial.Grid.from_image(fixed)
    if not grid.matches(regplugins.spatial.Grid.from_image(warped), tolerance=0.1):
        raise ValueError(f"{warped_label}: does not lie on the grid of {fixed_label}")
    after, missing, additional = regplugins.metrics.compare_label_sets(fixed, warped)
    if not after and not missing:
        raise ValueError(f"{fixed_label}: only background, no structure to evaluate")
    if moving_label is None:
        evaluated = sorted(after + missing)
        labels = {"evaluated": len(evaluated), "missing": missing, "only_warped": additional}
        if missing:
            logger.warning(
                "%s: without label %s of %s, which count as Dice 0; give --moving_label to leave out what it never had",
                warped_label,
                ", ".join(map(str, missing)),
                fixed_label,
            )
    else:
        moving = regplugins.io.load_label(moving_label)
        evaluated, only_fixed, only_moving = regplugins.metrics.compare_label_sets(fixed, moving)
        if not evaluated:
            raise ValueError(f"{moving_label}: no label in common with {fixed_label}")
        lost = sorted(set(evaluated) & set(missing))
        labels = {"both": len(evaluated), "only_fixed": only_fixed, "only_moving": only_moving, "lost": lost}
    scores = regplugins.metrics.label_overlap(warped.as_tensor(), fixed.as_tensor(), grid.spacing.tolist(), evaluated)
    return {"overlap": {**scores, "mean": regplugins.metrics.mean_overlap(scores)}, "labels": labels}


def report(
    output_dir: str,
    *transforms: str,
    fixed: str | None = None,
    moving: str | None = None,
    fixed_label: str | None = None,
    moving_label: str | None = None,
    fixed_landmarks: str | None = None,
    moving_landmarks: str | None = None,
    landmark_space: str = "RAS",
    fill: float | None = None,
) -> dict[str, Any]:
    """Report registered pairs: one page for a folder of pairs, or all files of one pair from its transforms.

    With a folder alone, writes report.html into it, for the pairs of its summary.csv or metrics.csv. With images and
    transforms of any tool, writes the files that a bundle writes for a pair: warped images, picture, report.json.

    Args:
        output_dir: folder of the pairs, or for the files of one pair.
        transforms: files in the order of antsApplyTransforms, from the fixed to the moving scan.
        fixed: fixed scan.
        moving: moving scan.
        fixed_label: label map of the fixed scan.
        moving_label: label map of the moving scan.
        fixed_landmarks: CSV with x,y,z in mm.
        moving_landmarks: CSV with the same points in the moving scan.
        landmark_space: coordinate system of both CSV files, "RAS" or "LPS".
        fill: value of the warped image outside the moving one; default: -1024 of a CT, else 0.
    """
    given = {"fixed": fixed, "moving": moving, "fixed_label": fixed_label, "moving_label": moving_label}
    given |= {"fixed_landmarks": fixed_landmarks, "moving_landmarks": moving_landmarks}
    if not transforms and all(path is None for path in given.values()):
        return {"page": str(regplugins.report.write_page(output_dir))}
    for key in ("fixed", "moving"):
        if given[key] is None:
            raise ValueError(f"no {key} image given: a report on a pair needs --fixed, --moving and its transforms")
    (record,) = regplugins.data.pair_records(given, None, "")
    outputs = regplugins.data.records.result_files(Path(output_dir))
    regplugins.io.refuse_overwriting_inputs(outputs, [*record.values(), *regplugins.io.chain_files(transforms)])
    logger.info("warping, evaluating and drawing %s", moving)
    pair = regplugins.transforms.LoadPaird(landmark_space)(record)
    pair = regplugins.transforms.ApplyTransformPaird(regplugins.io.read_chain(transforms), fill=fill)(pair)
    pair = regplugins.transforms.EvaluatePaird()(pair)
    with regplugins.io.folder_lock(Path(output_dir)) as is_held:
        if not is_held:
            raise RuntimeError(f"{output_dir}: a run writes into this folder; wait for it, or choose another one")
        regplugins.report.remove_pair_table(Path(output_dir))
        regplugins.data.records.remove_results(outputs)  # the other direction's too
        regplugins.transforms.SavePaird(output_dir)(pair)
    return {"report": str(Path(output_dir) / "report.json"), "picture": str(Path(output_dir) / "report.png")}


def _both(**files: str | None) -> bool:
    """Tell whether two files that belong together are given; one alone is refused."""
    (first, a), (second, b) = files.items()
    if (a is None) != (b is None):
        raise ValueError(f"give both --{first} and --{second}, or neither")
    return a is not None
