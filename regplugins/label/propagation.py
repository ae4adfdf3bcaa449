# SPDX-License-Identifier: Apache-2.0
"""Label propagation from annotated images of a datastore to another image, by a bundle and a vote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import monai.bundle
import numpy as np
import torch
from monai.data import MetaTensor
from scipy.ndimage import uniform_filter
from torch import Tensor

from regplugins.checks import choice
from regplugins.io import load_image, load_label, read_json, write_image
from regplugins.metrics import mutual_information, normalized_correlation
from regplugins.registration import initial_transform
from regplugins.spatial import Grid, resample_to_grid

# True: votes are weighted by the local similarity of the images.
LABEL_FUSIONS = {"weighted": True, "majority": False}
# Voxels along the longest side of the images that are compared to find similar ones.
_COARSE = 48
# Number of cached images at that resolution, 0.4 MB each.
_CACHE_SIZE = 256
# Side in voxels of the neighborhood in which images are compared to weigh votes.
_WINDOW = 7
# Smallest weight of a vote, so that the majority decides where no image is similar.
_EPS = 1e-3


class Datastore(Protocol):
    """Used methods of MONAI Label's datastores."""

    def list_images(self) -> list[str]: ...
    def get_image_uri(self, image_id: str) -> str: ...
    def datalist(self) -> Sequence[Mapping[str, str]]: ...


@dataclass(frozen=True)
class Case:
    """Annotated image: id in the datastore, image file and label file."""

    name: str
    image: str
    label: str


def annotated_cases(datastore: Datastore) -> list[Case]:
    """Images with a final label, sorted by id; a DICOMweb datastore downloads them first."""
    names = set(datastore.list_images())
    cases = []
    for pair in datastore.datalist():
        file = Path(pair["image"]).name  # an id and its ending
        known = [
            file[:end] for end in range(len(file), 0, -1) if file[:end] in names and file[end : end + 1] in ("", ".")
        ]
        cases += [Case(name, pair["image"], pair["label"]) for name in known[:1]]
    return sorted(cases, key=lambda case: case.name)


def most_similar(image: str, cases: Sequence[Case], count: int) -> list[Case]:
    """The ``count`` cases most similar to an image file, the most similar first.

    Similarity is the mutual information at a coarse resolution with aligned centers of mass. It works for any modality
    and needs no registration.
    """
    fixed = _coarse_image(image)

    def similarity(case: Case) -> float:
        moving = _coarse_image(case.image)
        _, initial = initial_transform("center", fixed, moving)
        return mutual_information(fixed.as_tensor(), resample_to_grid(moving, Grid.from_image(fixed), initial))

    return sorted(cases, key=similarity, reverse=True)[:count]


def _coarse_image(path: str) -> MetaTensor:
    return _read_coarse(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=_CACHE_SIZE)
def _read_coarse(path: str, changed: int) -> MetaTensor:
    """Read and resample an image, cached for further requests; ``changed`` invalidates entries of older files."""
    image = load_image(path)
    fine = Grid.from_image(image)
    extent = max(size * step for size, step in zip(fine.shape, fine.spacing.tolist(), strict=True))
    grid = fine.resized([extent / _COARSE] * fine.ndim)
    return MetaTensor(resample_to_grid(image, grid), affine=grid.affine)


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
    """Register annotated images to one image by a bundle and fuse their labels.

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
    weighted = choice("fusion", fusion, LABEL_FUSIONS)
    if not cases:
        raise ValueError("no annotated image to take a label from")
    output_dir.mkdir(parents=True, exist_ok=True)
    records = [
        {"name": str(number), "fixed": image, "moving": case.image, "moving_label": case.label}
        for number, case in enumerate(cases)
    ]
    datalist = output_dir / "pairs.json"
    datalist.write_text(json.dumps(records), encoding="utf-8")
    monai.bundle.run(
        config_file=[str(bundle / "configs/inference.json")],
        logging_file=False,  # keep the server's logging
        bundle_root=str(bundle),
        datalist=str(datalist),
        output_dir=str(output_dir),
        failed_pairs="stop",
        **options,
    )
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
    label = vote(labels, weights)
    path = output_dir / "label.nii.gz"
    write_image(label, Grid.from_image(fixed), path, np.uint8 if label.max() <= np.iinfo(np.uint8).max else np.int32)
    return {"label": str(path), "cases": found}


def vote(labels: Sequence[Tensor], weights: Sequence[Tensor] = ()) -> Tensor:
    """Weighted voting over labels ``(1, *spatial)``: the value with most votes at each voxel, of ties the smallest.

    The weight of each label's vote at every voxel has its shape; without weights all are equal.
    """
    weights = weights or [torch.ones(())] * len(labels)
    values = sorted({int(value) for label in labels for value in label.unique()})
    best, most = torch.full_like(labels[0], values[0]), torch.full(labels[0].shape, -1.0)
    for value in values:
        votes = torch.zeros(labels[0].shape)
        for label, weight in zip(labels, weights, strict=True):
            votes += weight * (label == value)
        best[votes > most] = value
        most = torch.maximum(most, votes)
    return best


def local_similarity(fixed: Tensor, warped: Tensor) -> Tensor:
    """Squared local correlation of two images ``(1, *spatial)``, between 0.001 and 1.001, as weights of votes.

    Its sign is ignored, for different contrasts.
    """
    a, b = (image[0].double().numpy() for image in (fixed, warped))

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, _WINDOW, mode="nearest")

    # Subtracting the mean of the image keeps the differences of squares accurate.
    a, b = a - a.mean(), b - b.mean()
    covariance = mean(a * b) - mean(a) * mean(b)
    first, second = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
    flat = (first <= 1e-9 * a.var()) | (second <= 1e-9 * b.var())
    correlation = np.where(flat, 0, covariance**2 / np.where(flat, 1, first * second))
    return torch.from_numpy(correlation + _EPS)[None].float()
