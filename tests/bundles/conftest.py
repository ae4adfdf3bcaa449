# SPDX-License-Identifier: Apache-2.0
"""Bundles as users have them: a copy of the folder, and a small data set of realistic images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from regplugins.data import load_image, load_label
from regplugins.report import write_image
from regplugins.spatial import DisplacementField, Grid, resample, resample_labels

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bundle_copy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Copies of bundles, made once, so that what tests write does not land in the repository."""
    copies: dict[str, Path] = {}

    def copy(name: str) -> Path:
        if name not in copies:
            copies[name] = tmp_path_factory.mktemp("bundles") / name
            shutil.copytree(ROOT / "bundles" / name, copies[name])
        return copies[name]

    return copy


@pytest.fixture(scope="session")
def warped_samples(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """A data set made of a bundle's sample: the labelled image under smooth random warps, scaled as differently as
    scanners do.
    """

    def make(bundle: Path) -> Path:
        folder = tmp_path_factory.mktemp("data")
        image, label = load_image(bundle / "sample/moving.nii.gz"), load_label(bundle / "sample/moving_label.nii.gz")
        grid = Grid.from_image(image)
        generator = torch.Generator().manual_seed(0)
        records: list[dict[str, str]] = []
        for case in range(7):
            coarse = 4 * torch.randn(1, 3, 5, 5, 5, generator=generator)
            vectors = torch.nn.functional.interpolate(coarse, grid.shape, mode="trilinear", align_corners=True)[0]
            warp = DisplacementField(vectors, grid)
            scale = 20.0 ** float(torch.rand((), generator=generator))
            paths = {key: folder / f"{key}_{case}.nii.gz" for key in ("image", "label")}
            write_image(scale * resample(image.as_tensor(), grid, grid, warp), grid, paths["image"])
            write_image(resample_labels(label.as_tensor(), grid, grid, warp), grid, paths["label"], np.uint8)
            records.append({key: str(path) for key, path in paths.items()})
        sections = {"training": records[:3], "validation": records[3:5], "test": records[5:]}
        (folder / "datalist.json").write_text(json.dumps(sections))
        return folder

    return make


def save(path: Path, array: Any, affine: Any = None) -> str:
    """Write an array as NIfTI; the path as a string."""
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return str(path)
