# SPDX-License-Identifier: Apache-2.0
"""`register` and `align`: register a pair of scans."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import regplugins


def register(
    fixed: str | None = None,
    moving: str | None = None,
    *,
    output_dir: str | None = None,
    bundle: str | None = None,
    preset: str | None = None,
    fixed_label: str | None = None,
    moving_label: str | None = None,
    fixed_landmarks: str | None = None,
    moving_landmarks: str | None = None,
    fixed_mask: str | None = None,
    moving_mask: str | None = None,
    datalist: str | None = None,
    init: str | None = None,
    weights: str | None = None,
    refine: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Register two scans, FIXED MOVING -o FOLDER, as the inference.json of a bundle does.

    Args:
        fixed: fixed scan: NIfTI, NRRD, MHA, a DICOM folder or a photograph. Without scans the bundle's sample is
            registered.
        moving: moving scan, in any of these formats.
        output_dir: -o, folder for the warped image, the transforms, the picture and the report.
        bundle: a bundle's folder, or the name of one that comes with regplugins or was downloaded; default:
            optimization, for any two scans.
        preset: of the optimization: auto (default), same_modality, multimodal, ct_mr or large_deformation.
        fixed_label: label map of the fixed scan, for evaluation.
        moving_label: label map of the moving scan, to warp and for evaluation.
        fixed_landmarks: CSV with x,y,z in mm, or a file of Slicer.
        moving_landmarks: the same points in the moving scan.
        fixed_mask: mask of the fixed scan; `init` and optimizations ignore voxels where it is zero.
        moving_mask: mask of the moving scan; likewise.
        datalist: JSON file instead of one pair: a list of records with these keys and a name.
        init: initial transform: "auto", "none", "fov", "center", "rigid", "affine" or a file.
        weights: name of weights of the bundle, or a file (.pt, .ts, .onnx).
        refine: refine the result by optimizing the "field" or the network's "weights" on this pair (refine.json).
        options: any other key of inference.json: --device cpu, --failed_pairs stop, --resume True.
    """
    if fixed is not None and Path(fixed, "configs/inference.json").is_file():
        raise ValueError(f"{fixed}: is a bundle; type regplugins register FIXED MOVING -o FOLDER --bundle {fixed}")
    if not output_dir:
        raise ValueError("no folder for the results; type regplugins register FIXED MOVING -o FOLDER")
    named = {"fixed": fixed, "moving": moving, "fixed_label": fixed_label, "moving_label": moving_label}
    named |= {"fixed_landmarks": fixed_landmarks, "moving_landmarks": moving_landmarks}
    named |= {"fixed_mask": fixed_mask, "moving_mask": moving_mask, "datalist": datalist}
    named |= {"init": init, "weights": weights}
    options |= {key: value for key, value in named.items() if value is not None}
    regplugins.api.run_bundle(output_dir, bundle, preset, refine, options)
    return {"summary": str(Path(output_dir) / "summary.csv"), "output_dir": output_dir}


def align(
    fixed: str,
    moving: str,
    output_dir: str,
    kind: str = "rigid",
    fixed_mask: str | None = None,
    moving_mask: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute the initial transform of two scans, without a network.

    Writes transform_0GenericAffine.mat (ITK, LPS mm, fixed to moving points), which ANTs, ITK, Slicer and --init of
    every bundle read.

    Args:
        fixed: fixed scan: NIfTI, NRRD, MHA, a DICOM folder or a photograph.
        moving: moving scan, in any of these formats.
        output_dir: folder for the transform.
        kind: "rigid" or "affine" (mutual information), "center" (centers of mass) or "fov" (centers of the fields of
            view).
        fixed_mask: mask on the fixed scan's grid; voxels where it is zero are ignored.
        moving_mask: mask on the moving scan's grid; voxels where it is zero are ignored.
        seed: random seed of the voxel samples that mutual information uses.
    """
    seed = regplugins.checks.whole("seed", seed, 0)
    regplugins.checks.choice("kind", kind, dict.fromkeys({*regplugins.registration.INIT_CHOICES} - {"auto", "none"}))
    folder = regplugins.io.output_folder(output_dir)
    if (folder / "report.json").exists():
        raise ValueError(f"{folder}: holds the results of a registration, its own transform among them; choose another")
    given = {"fixed": fixed, "moving": moving, "fixed_mask": fixed_mask, "moving_mask": moving_mask}
    (record,) = regplugins.data.pair_records(given, None, "")
    pair = regplugins.transforms.LoadPaird()(record)
    begin = time.perf_counter()
    _, initial = regplugins.transforms.pair_initial_transform(pair, kind, seed)
    seconds = time.perf_counter() - begin
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "transform_0GenericAffine.mat"
    regplugins.io.write_transform(initial, path)
    return {"transform": str(path), "seconds": round(seconds, 3)}
