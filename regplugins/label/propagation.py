# SPDX-License-Identifier: Apache-2.0
"""Label propagation from annotated images to another image by a bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np

from regplugins.checks import choice
from regplugins.io import load_image, load_label, read_json, write_image
from regplugins.label.cases import Case
from regplugins.label.fusion import local_similarity, vote
from regplugins.metrics import normalized_correlation
from regplugins.spatial import Grid

# True: votes are weighted by the local similarity of the images.
FUSIONS = {"weighted": True, "majority": False}


def registration_bundles(folder: Path) -> list[Path]:
    """Registration bundles in a folder; classifiers of single images are left out."""
    configs = sorted(folder.glob("*/configs/metadata.json"))
    return [path.parents[1] for path in configs if "moving" in read_json(path.with_name("inference.json"))]


def propagate(
    bundle: str | Path,
    image: str,
    cases: Sequence[Case],
    output_dir: str | Path,
    fusion: str = "weighted",
    **options: Any,
) -> dict[str, Any]:
    """Register annotated images to one image and fuse their labels.

    Args:
        bundle: folder of the bundle.
        image: file of the fixed image, which gets a label.
        cases: annotated images, the moving ones.
        output_dir: folder for ``label.nii.gz``, and for the outputs of each case in a folder named by its number.
        fusion: "weighted" or "majority".
        options: keys of the bundle's ``inference.json``.

    Returns:
        ``label``, the file, and ``cases``, with ``name``, ``folder`` and ``correlation`` with the fixed image each.

    Raises:
        ValueError: if there is no case, ``fusion`` is unknown, or the images cannot be registered.
    """
    bundle, output_dir = Path(bundle), Path(output_dir)
    weighted = choice("fusion", fusion, FUSIONS)
    if not cases:
        raise ValueError("no annotated image to take a label from")
    output_dir.mkdir(parents=True, exist_ok=True)
    records = [
        {"name": str(number), "fixed": image, "moving": case.image, "moving_label": case.label}
        for number, case in enumerate(cases)
    ]
    datalist = output_dir / "pairs.json"
    datalist.write_text(json.dumps(records), encoding="utf-8")
    configs = [str(bundle / "configs/inference.json")]
    given = {
        "bundle_root": str(bundle),
        "datalist": str(datalist),
        "output_dir": str(output_dir),
        "failed_pairs": "stop",
    }
    monai.bundle.run(config_file=configs, logging_file=False, **given, **options)  # keep the server's logging
    fixed = load_image(image)
    labels, weights, found = [], [], []
    for case, record in zip(cases, records, strict=True):
        folder = output_dir / record["name"]
        warped = load_image(folder / "warped.nii.gz").as_tensor()
        labels.append(load_label(folder / "warped_label.nii.gz").as_tensor())
        if weighted and len(cases) > 1:
            weights.append(local_similarity(fixed.as_tensor(), warped))
        correlation = normalized_correlation(fixed.as_tensor(), warped)
        known = round(correlation, 4) if isfinite(correlation) else None  # JSON has no NaN
        found.append({"name": case.name, "folder": str(folder), "correlation": known})
    label = vote(labels, weights or None)
    path = output_dir / "label.nii.gz"
    write_image(label, Grid.from_image(fixed), path, np.uint8 if label.max() <= np.iinfo(np.uint8).max else np.int32)
    return {"label": str(path), "cases": found}
