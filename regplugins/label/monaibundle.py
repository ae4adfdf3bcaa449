# SPDX-License-Identifier: Apache-2.0
"""Copy of a bundle for MONAI Label's app ``monaibundle``, and the transforms and inferer of the copy.

The app handles one image and one label: the copy registers an annotated image to the opened one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Transform
from torch import Tensor, nn

from regplugins.checks import whole
from regplugins.inferers import RigidInferer
from regplugins.io import atomic_folder, load_image, load_label, output_folder, read_json, write_image
from regplugins.sharing import bundle_files
from regplugins.spatial import AffineTransform, Grid
from regplugins.transforms import LoadPaird

# Largest number of labels without given names; an image in place of a label map has more values.
_MAX_NAMED_LABELS = 256
# Keys of a pair that a RigidInferer reads, and the preset that was chosen for it.
_INFERER_KEYS = ("fixed", "moving", "grid", "initial", "seconds", "chosen")
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
        moving, moving_label: annotated image and its label map.
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
            torch.save({}, copy / "models/model.pt")
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


class FromAtlasd(Transform):
    """Load the open ``image`` as fixed and an annotated image as moving, in place of ``LoadPaird``.

    A ``moving`` of the request is ignored, since it could be any file of the server.
    """

    def __init__(self, moving: str | Path, moving_label: str | Path) -> None:
        self.atlas = {"moving": str(moving), "moving_label": str(moving_label)}
        self.load = LoadPaird()

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {**data, **self.load({"fixed": str(data["image"]), **self.atlas})}


class OpenedImaged(Transform):
    """Add ``image`` after ``ResamplePaird``: the network's input ``(2, *spatial)`` with the open image's metadata."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        fixed = data["fixed"]
        image = MetaTensor(data["pair"], meta={"spatial_shape": np.asarray(fixed.shape[1:])})
        image.meta["original_affine"] = fixed.affine.numpy()
        image.meta["registered_pair"] = {key: data[key] for key in _INFERER_KEYS if key in data}
        return {**data, "image": image}


class AppInferer(Inferer):
    """Inferer of the bundle for the app, which passes one tensor, takes one tensor, and knows no rigid transforms."""

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: MetaTensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Displacements ``(1, n, *spatial)`` in voxels for ``image`` of ``OpenedImaged``, with a batch axis."""
        pair = dict(inputs.meta["registered_pair"])
        if not isinstance(self.inferer, RigidInferer):
            chosen = {"chosen": pair["chosen"]} if "preset" in pair.get("chosen", {}) else {}
            return self.inferer(inputs, network, **chosen)
        transform = AffineTransform(
            torch.linalg.inv(pair["initial"].matrix) @ self.inferer(inputs, network, pair).matrix
        )
        return transform.sample(pair["grid"]).to_ddf()[None]


class PropagatedLabeld(Transform):
    """Set ``pred`` to the warped label ``(1, *spatial)``, uint8 or, for labels above 255, int32."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        label = data["warped_label"]
        small = int(label.max()) <= torch.iinfo(torch.uint8).max
        return {**data, "pred": MetaTensor(label.to(torch.uint8 if small else torch.int32), meta=data["fixed"].meta)}
