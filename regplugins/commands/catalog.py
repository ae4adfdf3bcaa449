# SPDX-License-Identifier: Apache-2.0
"""`prepare` and `bundles`: data sets to train on, and what there is to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import regplugins  # its parts, and MONAI with them, are loaded when a command needs them: help should not wait


def prepare(dataset: str, source: str, target: str) -> dict[str, Any]:
    """Turn a data set's folder, as downloaded, into a datalist.

    Args:
        dataset: "hippocampus", Task04 of the Medical Segmentation Decathlon (monai.apps.DecathlonDataset has it), or
            "brains", patients of BraTS and head templates (regplugins.datasets.prepare_brains says which, and where).
        source: the data set's folder.
        target: folder in which datalist.json is written: the dataset_dir of the bundle.
    """
    prepare_dataset = regplugins.checks.choice("dataset", dataset, regplugins.datasets.DATASETS)
    return {"datalist": str(prepare_dataset(source, target))}


def bundles(folder: str = "bundles") -> dict[str, Any]:
    """List the bundles in a folder: version, task, and whether their weights are those that metadata.json names.

    Args:
        folder: where to look; a bundle is a folder with configs/metadata.json.
    """
    found: dict[str, Any] = {}
    for path in sorted(Path(folder).glob("*/configs/metadata.json")):
        root, weights = path.parents[1], {}
        metadata = regplugins.io.read_json(path)
        try:
            for name, entry in metadata.get("weights", {}).items():
                file = root / name
                same = file.is_file() and regplugins.io.sha256(file) == entry["sha256"].lower()
                weights[name] = "ok" if same else "changed" if file.is_file() else "missing"
            found[root.name] = {"version": metadata["version"], "task": metadata["task"], "weights": weights}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a bundle's metadata ({error!r})") from error
    if not found:
        raise FileNotFoundError(f"{folder}: no bundle in this folder; give --folder")
    return found
