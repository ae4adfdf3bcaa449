# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms against SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regplugins.spatial import AffineTransform, rigid_parameters, rigid_transform

CENTER = torch.tensor([12.0, -30.0, 5.0], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_is_itks_euler_transform(seed):
    """ITK's order z y x, about the same center; RAS and LPS have the same handedness."""
    random = np.random.default_rng(seed)
    angles, shift = random.uniform(-80, 80, 3), random.uniform(-20, 20, 3)
    theirs = sitk.Euler3DTransform(CENTER.tolist(), *np.deg2rad(angles).tolist(), shift.tolist())
    theirs.SetComputeZYX(True)
    ours = rigid_transform(torch.tensor([*angles, *shift]), CENTER)
    for point in random.uniform(-100, 100, (10, 3)):
        np.testing.assert_allclose(ours(torch.from_numpy(point)), theirs.TransformPoint(point.tolist()), atol=1e-9)


@pytest.mark.parametrize("angles", [(10.0, -20.0, 170.0), (0.0, 0.0, 0.0), (-89.0, 45.0, 3.0)])
def test_there_and_back(angles):
    parameters = torch.tensor([*angles, 4.0, -5.0, 6.0], dtype=torch.float64)
    torch.testing.assert_close(rigid_parameters(rigid_transform(parameters, CENTER), CENTER), parameters)


@pytest.mark.parametrize(
    "matrix",
    [torch.diag(torch.tensor([1.1, 1.0, 1.0, 1.0])), torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])), torch.eye(3)],
)
def test_what_is_not_rigid(matrix):
    with pytest.raises(ValueError, match="rigid 3-D"):
        rigid_parameters(AffineTransform(matrix.double()), CENTER)
