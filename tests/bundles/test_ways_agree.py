# SPDX-License-Identifier: Apache-2.0
"""One registration, asked for in different ways, gives one transform."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from regplugins.__main__ import main
from regplugins.io import load_image, read_chain
from regplugins.losses import MINDLoss, PairLoss, SquaredLaplacianLoss
from regplugins.registration import CompositiveField, DeformableRegistration
from regplugins.spatial import Grid, SpatialTransform
from regplugins.transforms import Registerd

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "bundles/hippocampus_mr_multires_fcn/sample"
PAIR = {key: str(SAMPLE / f"{key}.nii.gz") for key in ("fixed", "moving")}
LEVELS = [[4.0, 5], [2.0, 5]]


def register(folder: Path, pair: str = "", **options: object) -> SpatialTransform:
    given = {"init": "center", "preset": "multimodal", "levels": LEVELS, "spacing": 2.0, "device": "cpu", **options}
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    main(["register", "-o", str(folder), *words])
    return read_chain([folder / pair / name for name in ("transform_1Warp.nii.gz", "transform_0GenericAffine.mat")])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> SpatialTransform:
    return register(tmp_path_factory.mktemp("alone"), **PAIR)


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    """Voxel centers of the fixed image, RAS mm."""
    return Grid.from_image(load_image(PAIR["fixed"])).coordinates().reshape(-1, 3)


def test_a_pair_of_a_datalist_is_a_pair(alone, points, tmp_path):
    (tmp_path / "pairs.json").write_text(json.dumps([PAIR | {"name": "first"}, PAIR | {"name": "second"}]))
    of_list = [
        register(tmp_path / "out", name, datalist=tmp_path / "pairs.json")(points) for name in ("first", "second")
    ]
    assert torch.equal(of_list[0], alone(points)) and torch.equal(of_list[1], alone(points))


def test_masks_of_everything_are_no_masks(alone, points, tmp_path):
    masks = {}
    for side, path in PAIR.items():
        image = nib.load(path)
        masks[f"{side}_mask"] = str(tmp_path / f"{side}.nii.gz")
        nib.save(nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), masks[f"{side}_mask"])
    masked = register(tmp_path / "out", **PAIR, **masks)(points)
    # Where the gradient is next to nothing, Adam makes steps of its rounding: 0.001 mm on some processors.
    torch.testing.assert_close(masked, alone(points), atol=0.01, rtol=0)


def test_a_step_of_a_pipeline_does_as_the_bundle(alone, points):
    objective = PairLoss(MINDLoss("ssc", radius=1, dilation=1), SquaredLaplacianLoss(), 2.0)
    optimizer = DeformableRegistration(objective, LEVELS, 2.0, CompositiveField(smoothing=2.0, step=0.3))
    data = {key: load_image(path) for key, path in PAIR.items()}
    found = Registerd("fixed", "moving", optimizer, init="center")(data)["transform"](points)
    # The file holds the field on the fixed image's grid, the step on its own of 2 mm: the same at these points.
    torch.testing.assert_close(found, alone(points), atol=1e-3, rtol=0)
    assert (found - points).std(dim=0).max() > 0.1


def test_a_step_without_optimizer_does_as_the_bundle_without_options(points, tmp_path):
    main(["register", PAIR["fixed"], PAIR["moving"], "-o", str(tmp_path)])
    of_files = read_chain([tmp_path / "transform_1Warp.nii.gz", tmp_path / "transform_0GenericAffine.mat"])(points)
    data = {key: load_image(path) for key, path in PAIR.items()}
    found = Registerd("fixed", "moving")(data)["transform"](points)
    torch.testing.assert_close(found, of_files, atol=0.02, rtol=0)
    assert (found - points).std(dim=0).max() > 0.1
