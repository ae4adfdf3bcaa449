# SPDX-License-Identifier: Apache-2.0
"""Alignment against known motions of a head that is defined at every point of the world."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from regplugins.io import write_transform
from regplugins.prealign import initial_transform
from regplugins.spatial import AffineTransform, Grid
from tests.prealign import heads

FIXED = Grid((34, 40, 30), torch.tensor([[-4.0, 0, 0, 72], [0, 4, 0, -88], [0, 0, 4, -46], [0, 0, 0, 1]]))


def moving_grid(degrees: float = 25.0) -> Grid:
    """Anisotropic, oblique, left-handed, about another centre."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, -1]]) @ torch.diag(torch.tensor([3.5, 4.5, 5.0]))
    shape = (46, 40, 30)
    affine[:3, 3] = torch.tensor([10.0, -5, 20]) - affine[:3, :3] @ ((torch.tensor(shape).double() - 1) / 2)
    return Grid(shape, affine)


def motion(degrees: float, shift: tuple[float, ...], scale: float = 1.0) -> AffineTransform:
    """From the fixed to the moving world: a turn about the head, a shift and a scale."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = scale * torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    centre = torch.tensor([6.0, -9, 12], dtype=torch.float64)
    matrix[:3, 3] = centre + torch.tensor(shift, dtype=torch.float64) - matrix[:3, :3] @ centre
    return AffineTransform(matrix)


def errors(found: AffineTransform, truth: AffineTransform) -> torch.Tensor:
    """Distance in mm at points of the head."""
    points = FIXED.coordinates().reshape(-1, 3)
    inside = points[(points - torch.tensor([6.0, -9, 12])).norm(dim=1) < 60]
    return (found(inside) - truth(inside)).norm(dim=1)


@pytest.mark.parametrize("render", [heads.mr, heads.ct], ids=["mr_mr", "mr_ct"])
def test_rigid_motion_is_found(render):
    truth, grid = motion(14, (12, -9, 7)), moving_grid()
    fixed, moving = heads.mr(FIXED.coordinates()), render((~truth)(grid.coordinates()))
    found = initial_transform("rigid", fixed[None], FIXED, moving[None], grid)
    assert errors(found, truth).mean() < 1.0
    rotation = found.matrix[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)


def test_affine_motion_is_found_and_repeats_itself():
    truth, grid = motion(8, (6, 5, -8), scale=1.08), moving_grid()
    fixed, moving = heads.mr(FIXED.coordinates()), heads.mr((~truth)(grid.coordinates()))
    found, again = (initial_transform("affine", fixed[None], FIXED, moving[None], grid, seed=3) for _ in range(2))
    assert errors(found, truth).mean() < 1.5
    assert torch.equal(found.matrix, again.matrix)


def test_centres():
    truth, grid = motion(0, (12, -9, 7)), moving_grid()
    fixed, moving = heads.mr(FIXED.coordinates()), heads.mr((~truth)(grid.coordinates()))
    none, fov, centre = (
        initial_transform(init, fixed[None], FIXED, moving[None], grid) for init in ("none", "fov", "centre")
    )
    assert torch.equal(none.matrix, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(fov(FIXED.centre), grid.centre)
    assert errors(centre, truth).max() < 2  # the grids sample the head differently


def test_file(tmp_path):
    volume = heads.mr(FIXED.coordinates())[None]
    truth = motion(30, (1, 2, 3))
    write_transform(truth, tmp_path / "start.mat")
    found = initial_transform(str(tmp_path / "start.mat"), volume, FIXED, volume, FIXED)
    torch.testing.assert_close(found.matrix, truth.matrix)
    write_transform(truth.sample(FIXED), tmp_path / "warp.nii.gz")
    with pytest.raises(ValueError, match=r"warp\.nii\.gz.*must be affine"):
        initial_transform(str(tmp_path / "warp.nii.gz"), volume, FIXED, volume, FIXED)


def test_what_cannot_be_aligned_is_named():
    volume = heads.mr(FIXED.coordinates())[None]
    with pytest.raises(ValueError, match="rigd"):
        initial_transform("rigd", volume, FIXED, volume, FIXED)
    with pytest.raises(ValueError, match="moving image is constant"):
        initial_transform("rigid", volume, FIXED, torch.zeros_like(volume), FIXED)
    with pytest.raises(ValueError, match="fixed image has values that are not finite"):
        initial_transform("centre", torch.full_like(volume, np.nan), FIXED, volume, FIXED)
