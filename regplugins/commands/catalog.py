# SPDX-License-Identifier: Apache-2.0
"""`prepare` and `bundles`: data sets for training, and the bundles of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import regplugins


def prepare(dataset: str, target: str, source: str | None = None) -> dict[str, Any]:
    """Download a public data set, or take its folder, and write the datalist to train or evaluate with.

    Args:
        dataset: its name, one of abdomen_ct_mr, brain_t1_labels, brains, cardiac_cine, cardiac_cine_train, ct_mr_limbs,
            head_ct_mr_phantom, heads, hippocampus, histology_2d, label_maps, liver_mr4d, lung_ct, lung_mr, mouse_ct,
            thorax_ct. hippocampus, histology_2d and mouse_ct can be downloaded.
        target: folder in which datalist.json is written: the dataset_dir of a bundle.
        source: folder of the data set's files; downloaded to target/downloads if it is not given.
    """
    chosen = regplugins.checks.choice("dataset", dataset, regplugins.datasets.DATASETS)
    return {"datalist": str(chosen.build(target, source)), "license": chosen.license}


def bundles(folder: str = "bundles") -> dict[str, Any]:
    """List the bundles in a folder: version, task, and whether their weights are those that metadata.json names.

    Args:
        folder: folder of bundles; a bundle is a folder with configs/metadata.json.
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
