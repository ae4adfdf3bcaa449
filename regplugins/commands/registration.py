# SPDX-License-Identifier: Apache-2.0
"""`register` and `align`: bring two scans onto each other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import regplugins  # its parts, and MONAI with them, are loaded when a command needs them: help should not wait


def register(
    bundle: str, output_dir: str, refine: str | None = None, preset: str | None = None, **options: Any
) -> dict[str, Any]:
    """Register a pair with a bundle: the same as running its inference.json.

    Args:
        bundle: the bundle's folder.
        output_dir: where the warped image, the transforms, the picture and the report go.
        refine: improve the result by optimising the "field" or the network's "weights" on this pair (refine.json).
        preset: lay the bundle's configs/<preset>.json over inference.json, where it has such files.
        options: every key of inference.json: --fixed F --moving M, --moving_label L, --init rigid, --device cpu, ...
    """
    import monai.bundle  # takes seconds, which the other commands need not wait for
    from monai.bundle import ConfigParser

    configs = Path(bundle) / "configs"
    files = [str(configs / "inference.json")]
    if refine is not None:
        files.append(str(configs / "refine.json"))
        options["refine"] = refine
    for file in files:
        if not Path(file).is_file():
            raise FileNotFoundError(f"{file}: no such file; is {bundle} a bundle's folder?")
    if preset is not None:
        files.insert(1, regplugins.checks.choice("preset", preset, _presets(configs)))
    keys = {key for file in files for key in ConfigParser.load_config_file(file)} - {"bundle_root"}
    unknown = sorted(option for option in options if regplugins.checks.top_level(option) not in keys)
    if unknown:
        raise ValueError(f"unknown options {unknown}; {', '.join(map(repr, files))} have {sorted(keys)}")
    logging_file = str(configs / "logging.conf")
    monai.bundle.run(config_file=files, logging_file=logging_file, bundle_root=bundle, output_dir=output_dir, **options)
    return {"summary": str(Path(output_dir) / "summary.csv"), "output_dir": output_dir}


def _presets(configs: Path) -> dict[str, str]:
    """Files of keys that inference.json has, by their names."""
    from monai.bundle import ConfigParser

    known = ConfigParser.load_config_file(configs / "inference.json").keys()
    files = {path.stem: str(path) for path in configs.glob("*.json") if path.stem != "inference"}
    return {name: file for name, file in files.items() if ConfigParser.load_config_file(file).keys() <= known}


def align(
    fixed: str,
    moving: str,
    output_dir: str,
    kind: str = "rigid",
    fixed_mask: str | None = None,
    moving_mask: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Bring two scans roughly together: the initial transform alone, without a network.

    Writes transform_0GenericAffine.mat (ITK, LPS mm, fixed to moving points), which ANTs, ITK, Slicer and --init of
    every bundle read.

    Args:
        fixed: scan that stays: NIfTI, NRRD, MHA or a DICOM folder.
        moving: scan that is to lie on it.
        output_dir: folder for the transform.
        kind: "rigid" or "affine" (mutual information), "centre" (centres of mass) or "fov" (centres of the fields of
            view).
        fixed_mask: label map on the fixed scan's grid; only where it is not zero does the scan count.
        moving_mask: the same for the moving scan.
        seed: of the sampling.
    """
    kinds = [choice for choice in regplugins.prealign.CHOICES if choice != "none"]
    if kind not in kinds:
        raise ValueError(f"kind must be one of {kinds}, got '{kind}'")
    folder = regplugins.io.output_folder(output_dir)
    if (folder / "report.json").exists():
        raise ValueError(f"{folder}: holds the results of a registration, its own transform among them; choose another")
    given = {"fixed": fixed, "moving": moving, "fixed_mask": fixed_mask, "moving_mask": moving_mask}
    (record,) = regplugins.data.pair_records(given, None, "")
    pair = regplugins.transforms.LoadPaird()(record)
    begin = time.perf_counter()
    initial = regplugins.transforms.initial_of(pair, kind, seed)
    seconds = time.perf_counter() - begin
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "transform_0GenericAffine.mat"
    regplugins.io.write_transform(initial, path)
    return {"transform": str(path), "seconds": round(seconds, 3)}
