# SPDX-License-Identifier: Apache-2.0
"""Presets on made displacements of 40 mm: what each leaves without an initial alignment.

    python tests/benchmarks/large_displacements.py D [--section tune]

``D/datalist.json`` is one of ``regplugins prepare`` with whole bodies. Each fixed image is shifted by 40 mm in a random
direction and warped smoothly by up to 10 mm more. The moving image is the image itself, or the image in a remapped
contrast. Prints means over the images of the error in the body before and after, mm, as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import fire
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from regplugins.data import RandomWarp, RandRemap, read_datalist
from regplugins.io import load_image
from regplugins.registration import network_grid, otsu_threshold, scale_percentiles
from regplugins.report import json_text
from regplugins.spatial import AffineTransform, Grid, SpatialTransform, resample_to_grid
from regplugins.transforms import Registerd

_SHIFT, _SMOOTH = 40.0, 10.0
_CONTROL_SPACING = (50.0, 60.0)
_PRESETS = ("same_modality", "multimodal", "large_deformation")


def _displacement(grid: Grid, seed: int) -> SpatialTransform:
    """Transform from the shifted to the original image."""
    direction = np.random.RandomState(seed).normal(size=3)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.from_numpy(_SHIFT * direction / np.linalg.norm(direction))
    warp = RandomWarp(_SMOOTH, _CONTROL_SPACING).set_random_state(seed=seed)
    return AffineTransform(matrix) @ warp.smooth(grid)


def _pairs(image: MetaTensor, truth: SpatialTransform, seed: int) -> Iterator[tuple[str, dict[str, MetaTensor]]]:
    """Pairs by the contrast of their moving image."""
    grid = Grid.from_image(image)
    fixed = MetaTensor(resample_to_grid(image, grid, truth), affine=image.affine)
    remap = RandRemap(prob=1.0, monotonic=0.0).set_random_state(seed=seed)
    remap.randomize()
    remapped = MetaTensor(remap(image.as_tensor()), affine=image.affine)
    yield "same contrast", {"fixed": fixed, "moving": image}
    yield "remapped contrast", {"fixed": fixed, "moving": remapped}


def _points(fixed: Tensor, grid: Grid) -> Tensor:
    """Every third voxel of the body along each axis, ``(N, 3)`` mm."""
    index = (fixed[0, ::3, ::3, ::3] > 0.5 * otsu_threshold(fixed[0])).nonzero().double() * 3
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def main(dataset_dir: str, section: str = "tune") -> None:
    """Print the errors, in mm, by contrast and preset.

    Args:
        dataset_dir: folder with ``datalist.json``.
        section: of the datalist.
    """
    errors: dict[str, dict[str, list[float]]] = {}
    paths = dict.fromkeys(record["fixed"] for record in read_datalist(Path(dataset_dir) / "datalist.json", section))
    for seed, path in enumerate(paths):
        image = load_image(path)
        grid = network_grid(Grid.from_image(image), None)
        image = MetaTensor(scale_percentiles(resample_to_grid(image, grid)), affine=grid.affine)
        truth = _displacement(grid, seed)
        for contrast, pair in _pairs(image, truth, seed):
            points = _points(pair["fixed"].as_tensor(), grid)
            found = {"before": AffineTransform(torch.eye(4, dtype=torch.float64))}
            for preset in _PRESETS:
                found[preset] = Registerd("fixed", "moving", preset, init="none")(pair)["transform"]
            for name, transform in found.items():
                error = (transform(points) - truth(points)).norm(dim=1).mean()
                errors.setdefault(contrast, {}).setdefault(name, []).append(float(error))
    means = {contrast: {name: fmean(values) for name, values in of.items()} for contrast, of in errors.items()}
    print(json_text({"n": len(paths), **means}))


if __name__ == "__main__":
    fire.Fire(main)
