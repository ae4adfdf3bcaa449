# SPDX-License-Identifier: Apache-2.0
"""All orientations of an array give the same radiological picture."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, ornt_transform
from scipy.spatial.transform import Rotation

from regplugins.report.panels import deformation
from regplugins.report.planes import display_planes
from regplugins.spatial import Grid

CODES = ["".join(code) for order in permutations(["RL", "AP", "SI"]) for code in product(*order)]
SHAPE, VOXEL = (6, 7, 5), (2, 3, 4)


def canonical(oblique: bool) -> nib.Nifti1Image:
    """A random RAS+ volume of unequal spacing."""
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    if oblique:
        affine[:3, :3] = Rotation.from_euler("xyz", [12, -9, 15], degrees=True).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = (-5, 40, 3)
    return nib.Nifti1Image(np.random.default_rng(0).random(SHAPE), affine)


def turned(image: nib.Nifti1Image, code: str) -> tuple[torch.Tensor, Grid]:
    """The same volume with its array in another order."""
    image = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code)))
    return torch.from_numpy(image.get_fdata().copy())[None], Grid(image.shape, torch.from_numpy(image.affine))


def voxel_at(grid: Grid, point: np.ndarray) -> tuple[int, ...]:
    return tuple(int(k) for k in grid.world_to_index(torch.from_numpy(point)).round())


def test_right_is_left_front_is_up_head_is_up() -> None:
    image = canonical(oblique=False)
    data = image.get_fdata()
    axial, coronal, sagittal = display_planes(Grid(SHAPE, torch.from_numpy(image.affine)), VOXEL)
    volume = torch.from_numpy(data)[None]
    i, j, k = VOXEL
    np.testing.assert_array_equal(axial.take(volume)[0], data[::-1, ::-1, k].T)
    np.testing.assert_array_equal(coronal.take(volume)[0], data[::-1, j, ::-1].T)
    np.testing.assert_array_equal(sagittal.take(volume)[0], data[i, ::-1, ::-1].T)
    assert [plane.name for plane in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    assert [plane.ends for plane in (axial, coronal, sagittal)] == [tuple("RLAP"), tuple("RLSI"), tuple("APSI")]
    assert [(plane.width, plane.height) for plane in (axial, coronal, sagittal)] == [(6, 14), (6, 15), (14, 15)]


@pytest.mark.parametrize("code", ["RAS", "LPS", "SAR", "IRP"])
def test_points_are_projected_to_where_their_voxels_are_shown(code: str) -> None:
    image = canonical(oblique=False)
    volume, grid = turned(image, code)
    point = image.affine @ (*VOXEL, 1)
    index = voxel_at(grid, point[:3])
    for plane in display_planes(grid, index):
        ((across, down),) = plane.project(np.array([index], dtype=float))
        left, _, _, top = plane.extent
        assert min(across - left, down - top) > 0
        row, column = round(down / plane.spacing[0]), round(across / plane.spacing[1])
        assert plane.take(volume)[0][row, column] == image.get_fdata()[VOXEL]


@pytest.mark.parametrize("oblique", [False, True])
def test_all_orientations_look_alike(oblique: bool) -> None:
    image = canonical(oblique)
    point = (image.affine @ (*VOXEL, 1))[:3]
    field = torch.randn(3, *SHAPE)
    truth = None
    for code in CODES:
        volume, grid = turned(image, code)
        vectors = torch.cat(
            [turned(nib.Nifti1Image(part.numpy(), image.affine), code)[0] for part in field]
        )  # world components: reordered, not rotated
        planes = display_planes(grid, voxel_at(grid, point))
        looks = []
        for plane in planes:
            cut = deformation(vectors, grid, plane)
            looks += [plane.take(volume)[0], cut.across, cut.down, cut.length, cut.determinant]
            looks += [np.array(plane.extent)]
        truth = truth or looks
        for mine, theirs in zip(looks, truth, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=2e-5, err_msg=code)


def test_plane_image_is_its_own_plane() -> None:
    grid = Grid((4, 6), torch.diag(torch.tensor([-1.0, 2.0, 1.0])))  # first axis runs to the left
    (plane,) = display_planes(grid, (0, 0))
    image = torch.arange(24.0).reshape(1, 4, 6)
    np.testing.assert_array_equal(plane.take(image)[0], image[0].numpy()[:, ::-1].T)
    assert (plane.position, plane.ends, plane.width, plane.height) == (None, tuple("RLAP"), 4, 12)


@pytest.mark.parametrize(
    ("shape", "names"),
    [((8, 9, 1), ["axial"]), ((8, 1, 9), ["coronal"]), ((1, 8, 9), ["sagittal"]), ((1, 1, 4), ["axial"])],
)
def test_thin_volumes_show_no_mere_lines(shape: tuple[int, ...], names: list[str]) -> None:
    assert [plane.name for plane in display_planes(Grid(shape, torch.eye(4)), (0, 0, 0))] == names
