# SPDX-License-Identifier: Apache-2.0
"""Initial alignment of slabs with whole trunks: how far from its place a slab ends.

    python tests/benchmarks/slabs.py D [--section tune] [--init affine]

``D/datalist.json`` is one of ``regplugins prepare`` with trunks. Slabs of 60 mm are cut from the lower end, the middle
and the upper end of each fixed image. Each is aligned with that image and with the moving image, both in a remapped
contrast and 323 mm away. The truth is the identity, or ``init affine`` of the whole pair in its own contrasts. Prints
the errors in the slab, mm, as JSON.
"""

from __future__ import annotations

from pathlib import Path

import fire
import torch
from monai.data import MetaTensor

from regplugins.data import RandRemap, read_datalist
from regplugins.io import load_image
from regplugins.registration import initial_transform, scale_percentiles
from regplugins.report import json_text
from regplugins.spatial import AffineTransform, Grid, SpatialTransform

_LENGTH, _PLACES = 60.0, (0.1, 0.5, 0.9)
_AWAY = AffineTransform(
    torch.tensor([[1, 0, 0, 150], [0, 1, 0, -120], [0, 0, 1, 260], [0, 0, 0, 1]], dtype=torch.float64)
)


def _slab(image: MetaTensor, place: float) -> MetaTensor:
    """Axial slab of an image whose last axis leads upwards, from its lower (0) to its upper end (1)."""
    grid = Grid.from_image(image)
    count = round(_LENGTH / float(grid.spacing[2]))
    lowest = round((grid.shape[2] - count) * place)
    affine = grid.affine.clone()
    affine[:3, 3] += lowest * affine[:3, 2]
    return MetaTensor(image.as_tensor()[..., lowest : lowest + count], affine=affine)


def _aligned(init: str, fixed: MetaTensor, moving: MetaTensor) -> AffineTransform:
    return initial_transform(init, fixed, moving)[1]


def main(dataset_dir: str, section: str = "tune", init: str = "affine") -> None:
    """Print the errors, in mm, of slabs of the same image and of another's.

    Args:
        dataset_dir: folder with ``datalist.json``.
        section: of the datalist.
        init: "rigid", "affine" or "auto".
    """
    errors: dict[str, list[float]] = {"own image": [], "moving image": []}
    for seed, record in enumerate(read_datalist(Path(dataset_dir) / "datalist.json", section)):
        fixed, moving = load_image(record["fixed"]), load_image(record["moving"])
        truths: dict[str, SpatialTransform] = {
            "own image": AffineTransform.identity(3),
            "moving image": _aligned("affine", fixed, moving),
        }
        for name, image in (("own image", fixed), ("moving image", moving)):
            remap = RandRemap(prob=1.0, monotonic=0.0).set_random_state(seed=seed)
            remap.randomize()
            away = MetaTensor(remap(scale_percentiles(image.as_tensor())), affine=_AWAY.matrix @ image.affine)
            for place in _PLACES:
                slab = _slab(fixed, place)
                points = Grid.from_image(slab).coordinates()[::4, ::4, ::4]
                found, truth = _aligned(init, slab, away), truths[name]
                errors[name].append(float((found(points) - _AWAY(truth(points))).norm(dim=-1).mean()))
    print(json_text({"places": _PLACES, **errors}))


if __name__ == "__main__":
    fire.Fire(main)
