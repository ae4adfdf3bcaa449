# SPDX-License-Identifier: Apache-2.0
"""Content of panels in closed form."""

import numpy as np
import pytest
import torch

from regplugins.report.panels import checkerboard, deformation, grid_lines, outline
from regplugins.report.planes import Plane, display_planes
from regplugins.spatial import DisplacementField, Grid

ANISOTROPIC = Grid((12, 10, 8), torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))


@pytest.fixture
def plane() -> Plane:
    """Coronal: 3 mm down, 1 mm across, 8 rows, 12 columns."""
    return display_planes(ANISOTROPIC, (6, 5, 4))[1]


def test_checkerboard_tiles_are_square_in_millimeters(plane: Plane) -> None:
    board = checkerboard(np.zeros(plane.size), np.ones(plane.size), plane, tile=6)
    rows, columns = np.indices(plane.size)
    np.testing.assert_array_equal(board, (np.floor(rows * 3 / 6) + np.floor(columns * 1 / 6)) % 2)


def test_outline_is_as_long_as_the_border(plane: Plane) -> None:
    labels = np.zeros(plane.size)
    labels[2:5, 3:10] = 1
    labels[3:5, 6:10] = 2  # borders on 1: an inner edge of 2 rows and 4 columns
    segments = outline(labels, plane)
    length = np.abs(np.diff(segments, axis=1)).sum()
    assert length == pytest.approx(2 * (3 * 3 + 7 * 1) + (2 * 3 + 4 * 1))
    assert segments.reshape(-1, 2).min(axis=0) == pytest.approx([2.5 * 1, 1.5 * 3])
    assert segments.reshape(-1, 2).max(axis=0) == pytest.approx([9.5 * 1, 4.5 * 3])
    assert outline(np.ones(plane.size), plane).shape == (0, 2, 2)


@pytest.mark.parametrize("grid", [ANISOTROPIC, Grid((9, 7), torch.diag(torch.tensor([0.5, 2.0, 1.0])))])
def test_deformation_of_a_linear_map_is_exact_up_to_the_border(grid: Grid) -> None:
    n = grid.ndim
    matrix = torch.eye(n, dtype=torch.float64) + 0.2 * torch.randn(n, n, dtype=torch.float64)
    x = grid.coordinates()
    vectors = (x @ matrix.T - x).movedim(-1, 0).float()
    for corner in (0, -1):
        for plane in display_planes(grid, tuple(range(size)[corner] for size in grid.shape)):
            cut = deformation(vectors, grid, plane)
            np.testing.assert_allclose(cut.determinant, float(torch.linalg.det(matrix)), rtol=1e-4)
            np.testing.assert_allclose(cut.length, plane.take(vectors.norm(dim=0)[None])[0], rtol=1e-5)


def test_displacement_in_the_plane_points_as_the_picture_does() -> None:
    vectors = torch.zeros(3, *ANISOTROPIC.shape)
    vectors[0], vectors[1], vectors[2] = 1.0, 2.0, 3.0  # to the patient's left-right, front and head, in mm
    expected = {"axial": (-1, -2), "coronal": (-1, -3), "sagittal": (-2, -3)}
    for plane in display_planes(ANISOTROPIC, (6, 5, 4)):
        cut = deformation(vectors, ANISOTROPIC, plane)
        np.testing.assert_allclose(cut.across, expected[plane.name][0], atol=1e-6)
        np.testing.assert_allclose(cut.down, expected[plane.name][1], atol=1e-6)
        np.testing.assert_allclose(cut.length, np.sqrt(14), rtol=1e-6)


def test_a_folded_slice_is_seen_and_its_lines_cross() -> None:
    ddf = torch.zeros(3, *ANISOTROPIC.shape)
    ddf[0, 5:8] = torch.tensor([3.0, 0.0, -3.0])[:, None, None]  # columns 5 and 7 change places
    vectors = DisplacementField.from_ddf(ddf, ANISOTROPIC).vectors
    for plane in display_planes(ANISOTROPIC, (6, 5, 4))[:2]:
        cut = deformation(vectors, ANISOTROPIC, plane)
        assert ((cut.determinant <= 0).any(axis=0)).sum() == 1
        segments, _, folded = grid_lines(cut, plane, step=1e-3)
        runs = segments[:, 1, 0] - segments[:, 0, 0]
        assert (runs < 0).any() and folded[runs < 0].all()
        assert 0 < folded.mean() < 0.4


def test_lines_of_the_identity_are_straight_and_evenly_spaced(plane: Plane) -> None:
    cut = deformation(torch.zeros(3, *ANISOTROPIC.shape), ANISOTROPIC, plane)
    segments, lengths, folded = grid_lines(cut, plane, step=3)
    assert (lengths == 0).all() and not folded.any()
    rows = segments[segments[:, 0, 1] == segments[:, 1, 1]]
    columns = segments[segments[:, 0, 0] == segments[:, 1, 0]]
    assert len(rows) + len(columns) == len(segments)
    np.testing.assert_allclose(np.unique(rows[:, 0, 1]), 3.0 * np.arange(8))
    np.testing.assert_allclose(np.diff(np.unique(columns[:, 0, 0])), 3.0)
    np.testing.assert_allclose(np.abs(np.diff(rows[:, :, 0], axis=1)), 1)
    np.testing.assert_allclose(np.abs(np.diff(columns[:, :, 1], axis=1)), 3)
