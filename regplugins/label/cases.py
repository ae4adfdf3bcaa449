# SPDX-License-Identifier: Apache-2.0
"""Which annotated images of a datastore a label is taken from."""

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

# Voxels along the longest side of what is compared.
_COARSE = 48
# So many images at that resolution, 0.4 MB each, stay in memory.
_KEPT = 256


class Datastore(Protocol):
    """What is asked of MONAI Label's datastores."""

    def list_images(self) -> list[str]: ...
    def get_image_uri(self, image_id: str) -> str: ...
    def datalist(self) -> Sequence[Mapping[str, str]]: ...


@dataclass(frozen=True)
class Case:
    """An annotated image: its id in the datastore, and files."""

    name: str
    image: str
    label: str


def annotated(datastore: Datastore) -> list[Case]:
    """The images that have a final label, by id.

    As the datastore lists them for training: one of DICOMweb fetches them first.
    """
    names = set(datastore.list_images())
    cases = []
    for pair in datastore.datalist():
        file = Path(pair["image"]).name  # an id and its ending
        known = [
            file[:end] for end in range(len(file), 0, -1) if file[:end] in names and file[end : end + 1] in ("", ".")
        ]
        cases += [Case(name, pair["image"], pair["label"]) for name in known[:1]]
    return sorted(cases, key=lambda case: case.name)


def named(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """Those of given ids, in their order.

    Raises:
        ValueError: no annotated image has one of the ids.
    """
    known = {case.name: case for case in cases}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no annotated image of the datastore is called {unknown[0]!r}; these are: {sorted(known)}")
    return [known[name] for name in names]


def nearest(image: str, cases: Sequence[Case], count: int) -> list[Case]:
    """The cases most like an image, the most like one first.

    By the mutual information of what is left of both at a coarse resolution when their centers of mass lie on each
    other: any modality, and no registration.

    Args:
        image: file.
        cases: to choose from.
        count: how many.
    """
    fixed = _coarse_image(image)
    grid = Grid.from_image(fixed)

    def local_similarity(case: Case) -> float:
        moving = _coarse_image(case.image)
        place = initial_transform("center", fixed.as_tensor(), grid, moving.as_tensor(), Grid.from_image(moving))
        return mutual_information(fixed.as_tensor(), resample_to_grid(moving, grid, place))

    return sorted(cases, key=local_similarity, reverse=True)[:count]


def _coarse_image(path: str) -> MetaTensor:
    return _read_coarse(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=_KEPT)
def _read_coarse(path: str, changed: int) -> MetaTensor:
    """Kept, for a server is asked again; ``changed`` tells a file from an older one of its name."""
    image = load_image(path)
    fine = Grid.from_image(image)
    extent = max(size * step for size, step in zip(fine.shape, fine.spacing.tolist(), strict=True))
    grid = fine.resized([extent / _COARSE] * fine.ndim)
    return MetaTensor(resample_to_grid(image, grid), affine=grid.affine)
