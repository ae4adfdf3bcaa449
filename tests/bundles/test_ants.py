# SPDX-License-Identifier: Apache-2.0
"""ANTs reproduces the warp from the files of a deformable and of a rigid registration."""

import numpy as np
import pytest

from regplugins.__main__ import main
from tests.bundles.cases import HEADS, HIPPOCAMPUS, BundleCase
from tests.itk_truth import outside_value

ants = pytest.importorskip("ants", reason="antspyx (extra 'benchmark') is not installed")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[HIPPOCAMPUS, HEADS], ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> BundleCase:
    return request.param


@pytest.fixture
def images(bundle):
    return {name: ants.image_read(str(bundle / f"sample/{name}.nii.gz")) for name in ("fixed", "moving")}


def test_ants_warps_the_moving_image_and_its_label_as_we_do(bundle, registered, images):
    files = [str(registered / name) for name in ("transform_1Warp.nii.gz", "transform_0GenericAffine.mat")]
    options = {"interpolator": "linear", "defaultvalue": outside_value(images["moving"].numpy())}
    found = ants.apply_transforms(images["fixed"], images["moving"], files, **options).numpy()
    ours = ants.image_read(str(registered / "warped.nii.gz")).numpy()
    assert np.abs(found - ours).max() < 1e-4 * np.ptp(ours)
    label = ants.image_read(str(bundle / "sample/moving_label.nii.gz"))
    found = ants.apply_transforms(images["fixed"], label, files, interpolator="nearestNeighbor").numpy()
    ours = ants.image_read(str(registered / "warped_label.nii.gz")).numpy()
    assert np.mean(found == ours) > 0.9999 and np.ptp(ours) > 0


def test_ants_brings_the_fixed_image_back_as_we_do(bundle, registered, images, tmp_path):
    affine, inverse = (str(registered / f"transform_{n}") for n in ("0GenericAffine.mat", "1InverseWarp.nii.gz"))
    given = {"image": bundle / "sample/fixed.nii.gz", "reference": bundle / "sample/moving.nii.gz"}
    words = [word for key, path in given.items() for word in (f"--{key}", str(path))]
    main(["apply", f"[{affine},1]", inverse, *words, "--output", str(tmp_path / "back.nii.gz")])
    ours = ants.image_read(str(tmp_path / "back.nii.gz")).numpy()
    to_moving = {"fixed": images["moving"], "interpolator": "linear"}
    found = ants.apply_transforms(
        moving=images["fixed"], transformlist=[affine, inverse], whichtoinvert=[True, False], **to_moving
    ).numpy()
    # Where the field ends ANTs' displacements become zero, ours go on.
    everywhere = images["fixed"].new_image_like(np.ones(images["fixed"].shape, np.float32))
    covered = ants.apply_transforms(moving=everywhere, transformlist=[affine], whichtoinvert=[True], **to_moving)
    inside = covered.numpy() > 0.999
    assert np.abs(found - ours)[inside].max() < 1e-4 * np.ptp(ours)
    assert np.ptp(ours[inside]) > 0
