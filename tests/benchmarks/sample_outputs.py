# SPDX-License-Identifier: Apache-2.0
"""Outputs of every bundle on its sample in a folder, and a comparison of two such folders.

    python tests/benchmarks/sample_outputs.py register BEFORE        # in a checkout of one version
    python tests/benchmarks/sample_outputs.py register AFTER         # in a checkout of another one
    python tests/benchmarks/sample_outputs.py compare BEFORE AFTER

They agree if fields differ by less than 0.01 mm, images by less than 0.1 % of their range, labels in fewer than
0.01 % of voxels, and figures by less than half of their third decimal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fire
import monai.bundle
import nibabel as nib
import numpy as np

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
# Configurations laid over inference.json, and overrides.
VARIANTS: dict[str, dict[str, tuple[tuple[str, ...], dict[str, Any]]]] = {
    "hippocampus_mr_multires_fcn": {
        "default": ((), {}),
        "weak": ((), {"weights": "weak"}),
        "refine_field": (("refine",), {}),
        "refine_weights": (("refine",), {"refine": "weights"}),
    },
    "brain_mr_gated_gradient": {"default": ((), {}), "refine_field": (("refine",), {})},
    "brain_mr_dual_supervision": {"default": ((), {}), "refine_field": (("refine",), {})},
    "limb_ct_mr_dual_supervision": {"default": ((), {}), "refine_field": (("refine",), {})},
    "brain_mr_fire": {"default": ((), {}), "refine_field": (("refine",), {})},
    "head_ct_mr_rigid": {
        "default": ((), {}),
        "network": ((), {"refine_rigid": False}),
        "auto": ((), {"order": "auto"}),
    },
    "any_modality_optimization": {
        "default": ((), {}),
        "symmetric": ((), {"symmetric": True}),
        **{name: ((), {"preset": name}) for name in ("multimodal", "same_modality", "ct_mr", "large_deformation")},
    },
}
_FIGURES = ("similarity", "folding_percent", "sd_log_jacobian", "mean_jacobian", "inverse_consistency_mm", "overlap")


def register(folder: str, bundle: str | None = None) -> None:
    """Register all samples.

    Args:
        folder: for the results, ``<bundle>/<variant>``.
        bundle: this one alone.
    """
    for name in VARIANTS if bundle is None else [bundle]:
        root = BUNDLES / name
        for variant, (overlays, overrides) in VARIANTS[name].items():
            files = [str(root / f"configs/{config}.json") for config in ("inference", *overlays)]
            output = str(Path(folder) / name / variant)
            monai.bundle.run(config_file=files, bundle_root=str(root), output_dir=output, device="cpu", **overrides)


def compare(before: str, after: str) -> None:
    """Print what differs more than it may; the exit status says whether anything does."""
    faults = []
    for path in sorted(Path(before).rglob("*")):
        other = Path(after) / path.relative_to(before)
        if path.name.endswith((".nii.gz", "report.json")):
            faults += [f"{path.relative_to(before)}: {fault}" for fault in _faults(path, other)]
    print("\n".join(faults) or "no difference")
    sys.exit(bool(faults))


def _faults(path: Path, other: Path) -> Iterator[str]:
    if not other.exists():
        yield "missing"
    elif path.name == "report.json":
        one, two = (_figures(json.loads(file.read_text(encoding="utf-8"))) for file in (path, other))
        for key, value in one.items():
            if key not in two or not np.isclose(value, two[key], rtol=0, atol=5e-4, equal_nan=True):
                yield f"{key} {value} -> {two.get(key)}"
    else:
        one, two = (np.asarray(nib.load(file).dataobj, dtype=np.float64) for file in (path, other))
        if one.shape != two.shape:
            yield f"shape {one.shape} -> {two.shape}"
        elif "label" in path.name:
            if (one != two).mean() >= 1e-4:
                yield f"{100 * (one != two).mean():.3f} % of labels differ"
        elif np.abs(one - two).max() >= (0.01 if one.ndim == 5 else 1e-3 * np.ptp(one)):
            yield f"values differ by up to {np.abs(one - two).max():.4g}"


def _figures(report: Mapping[str, Any], name: str = "") -> dict[str, float]:
    """The numbers of a report by their names, joined by dots."""
    found: dict[str, float] = {}
    for key, value in report.items():
        if not name and key not in _FIGURES:
            continue
        path = f"{name}.{key}" if name else key
        if isinstance(value, Mapping):
            found |= _figures(value, path)
        elif isinstance(value, int | float):
            found[path] = float(value)
    return found


if __name__ == "__main__":
    fire.Fire({"register": register, "compare": compare})
