# SPDX-License-Identifier: Apache-2.0
"""Copy of a bundle in the layout of MONAI Label's ``monaibundle`` app."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from regplugins.checks import whole
from regplugins.io import atomic, atomic_folder, load_image, load_label, output_folder, read_json, write_image
from regplugins.sharing import bundle_files
from regplugins.spatial import Grid

# Largest number of labels without given names; an image in place of a label map has more values.
_MAX_NAMED_LABELS = 256
OVERLAY = Path(__file__).with_name("overlay.json")


def lay_out(
    bundle: str | Path,
    output_dir: str | Path,
    moving: str | Path,
    moving_label: str | Path,
    labels: Mapping[str, int] | None = None,
) -> Path:
    """Copy a bundle together with an annotated image, which the app registers to the open image.

    The app reads ``inference.json`` only: the copy merges the bundle's with ``overlay.json``, and its metadata name the
    labels. A bundle without weights gets an empty weights file, which the app requires.

    Args:
        bundle: folder of the bundle.
        output_dir: folder ``model`` of the app; created if it is missing.
        moving: annotated image.
        moving_label: its label map.
        labels: names and values of the labels; default: "label 1" and so on.

    Returns:
        The copy, a folder with the bundle's name in ``output_dir``.

    Raises:
        FileNotFoundError: if there is no bundle or no such image.
        FileExistsError: if the copy exists.
        ValueError: if the label map is not on the image's grid, is empty, or has values without names.
    """
    bundle, output_dir = Path(bundle).resolve(), output_folder(output_dir)
    files = bundle_files(bundle)
    read_json(bundle / "configs/inference.json")  # MONAI's error would not name the file
    metadata = read_json(bundle / "configs/metadata.json")
    try:
        pred = metadata["network_data_format"]["outputs"]["pred"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{bundle}/configs/metadata.json: names no output 'pred'") from error
    target = output_dir / bundle.name
    image, label = load_image(moving), load_label(moving_label)
    grid = Grid.from_image(image)
    if not grid.matches(Grid.from_image(label), tolerance=0.1):
        raise ValueError(f"{moving_label}: is not on the grid of {moving}")
    names = _names(label, moving_label, labels)
    with atomic_folder(target) as copy:
        for name in files:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, copy / name)
        config = ConfigParser()
        config.read_config([bundle / "configs/inference.json", OVERLAY])
        merged = {key: value for key, value in config.get().items() if key != "_meta_"}
        merged["bundle_inferer"] = merged["inferer"]
        merged["inferer"] = {"_target_": "regplugins.label.AppInferer", "inferer": "@bundle_inferer"}
        _write_json(merged, copy / "configs/inference.json")
        pred["channel_def"] = {"0": "background", **names}
        _write_json(metadata, copy / "configs/metadata.json")
        if not (copy / "models/model.pt").exists():
            (copy / "models").mkdir(exist_ok=True)
            with atomic(copy / "models/model.pt") as temporary, temporary.open("wb") as file:
                torch.save({}, file)
        (copy / "atlas").mkdir()
        write_image(image.as_tensor(), grid, copy / "atlas/moving.nii.gz")
        write_image(label.as_tensor(), grid, copy / "atlas/moving_label.nii.gz", label.meta["stored_dtype"])
    return target


def _names(label: torch.Tensor, path: str | Path, given: Mapping[str, int] | None) -> dict[str, str]:
    """Names of a label map's values, by value."""
    values = [value for value in label.unique().tolist() if value != 0]
    if not values:
        raise ValueError(f"{path}: only background, nothing to propagate")
    if given is None and len(values) > _MAX_NAMED_LABELS:
        raise ValueError(f"{path}: has {len(values)} values; if it is a label map and no image, give them names")
    names = {value: f"label {value}" for value in values}
    if given is not None:
        names = {whole(f"value of {name}", value): str(name) for name, value in given.items()}
        if set(names) != set(values):
            raise ValueError(f"{path}: has the values {values}, names were given for {sorted(names)}")
    return {str(value): names[value] for value in sorted(names)}


def _write_json(content: object, path: Path) -> None:
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
