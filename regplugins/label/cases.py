# SPDX-License-Identifier: Apache-2.0
"""Annotated images of a datastore, and the selection of those to propagate labels from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from monai.data import MetaTensor

from regplugins.io import load_image
from regplugins.metrics import mutual_information
from regplugins.registration import initial_transform
from regplugins.spatial import Grid, resample_to_grid

# Voxels along the longest side of the compared images.
_COARSE = 48
# Number of cached images at that resolution, 0.4 MB each.
_CACHE_SIZE = 256


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


def select_cases(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """Select cases by id.

    Raises:
        ValueError: if no annotated image has one of the ids.
    """
    known = {case.name: case for case in cases}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"no annotated image of the datastore has the id {unknown[0]!r}, expected one of {sorted(known)}"
        )
    return [known[name] for name in names]


def most_similar(image: str, cases: Sequence[Case], count: int) -> list[Case]:
    """The ``count`` cases most similar to an image file, the most similar first.

    Similarity is the mutual information at a coarse resolution with aligned centers of mass. It works for any modality
    and needs no registration.
    """
    fixed = _coarse_image(image)
    grid = Grid.from_image(fixed)

    def similarity(case: Case) -> float:
        moving = _coarse_image(case.image)
        initial = initial_transform("center", fixed.as_tensor(), grid, moving.as_tensor(), Grid.from_image(moving))
        return mutual_information(fixed.as_tensor(), resample_to_grid(moving, grid, initial))

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
