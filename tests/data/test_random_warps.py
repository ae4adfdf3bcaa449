# SPDX-License-Identifier: Apache-2.0
"""Random warps have the requested sizes in millimeters, are smooth and do not fold, on all grids."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group

from regplugins.data import RandomWarp
from regplugins.spatial import AffineTransform, CompositeTransform, DisplacementField, Grid
from tests.itk_truth import GRIDS, make_grid, points_in, rotation

grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
# Control points so far apart that no length is held back by the limit on folds.
SMOOTH = {"displacement": 3.0, "control_spacing": (30.0, 60.0)}


def parts(warp: RandomWarp, grid: Grid) -> tuple[AffineTransform, DisplacementField]:
    """The affine map and the field of a draw, in which the field acts first."""
    drawn = warp(grid)
    assert isinstance(drawn, CompositeTransform)
    affine, field = drawn.transforms
    assert isinstance(affine, AffineTransform) and isinstance(field, DisplacementField)
    points = points_in(grid)
    torch.testing.assert_close(drawn(points), affine(field(points)))
    return affine, field


def least_determinant(points: np.ndarray, grid: Grid) -> float:
    """Least Jacobian determinant of a map that is linear between voxels, with the values ``points`` (*shape, n),
    at the corners of all cells, by differences within the cell.
    """
    n, shape = grid.ndim, grid.shape
    steps = grid.affine[:n, :n].numpy()
    least = math.inf
    for corner in itertools.product((0, 1), repeat=n):
        columns = []
        for axis in range(n):
            cells = tuple(
                slice(None) if k == axis else slice(side, shape[k] - 1 + side) for k, side in enumerate(corner)
            )
            columns.append(np.diff(points, axis=axis)[cells])
        jacobian = np.stack(columns, axis=-1) @ np.linalg.inv(steps)
        least = min(least, float(np.linalg.det(jacobian).min()))
    return least


def cubic(t: np.ndarray) -> np.ndarray:
    """The cubic B-spline about 0 with knots at whole numbers."""
    t = np.abs(t)
    return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0.0))


def unlike_a_spline(values: np.ndarray, axis: int, size: float, step: float) -> float:
    """Residual of ``values``, as a fraction of their spread, when along an axis of voxels of ``size`` mm the
    nearest cubic spline is taken away whose knots are ``step`` mm apart, the first at the first voxel.
    """
    lines = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(float)
    positions = np.arange(len(lines)) * size / step
    splines = cubic(positions[:, None] - np.arange(-1, math.floor(positions[-1]) + 3))
    assert splines.shape[1] < len(lines)
    rest = lines - splines @ np.linalg.lstsq(splines, lines, rcond=None)[0]
    return float(np.abs(rest).max() / values.std())


def test_the_state_says_it_all():
    grid = GRIDS["oblique"]
    points = points_in(grid)

    def maps(seed: int) -> list[torch.Tensor]:
        np.random.seed(None)
        torch.seed()
        warp = RandomWarp().set_random_state(seed=seed)
        return [warp(grid)(points) for _ in range(3)]

    first = maps(5)
    for own, again, other in zip(first, maps(5), maps(6), strict=True):
        assert torch.equal(own, again)
        assert (own - other).norm(dim=1).max() > 0.5
    assert (first[0] - first[1]).norm(dim=1).max() > 0.5
    given_state = RandomWarp().set_random_state(state=np.random.RandomState(5))
    assert torch.equal(given_state(grid)(points), first[0])


@grids
def test_smooth_part_is_as_long_as_stated_wherever_the_axes_point(grid):
    warp = RandomWarp(**SMOOTH).set_random_state(seed=1)
    lengths = [float(parts(warp, grid)[1].vectors.norm(dim=0).max()) for _ in range(30)]
    assert 1.5 - 1e-4 <= min(lengths) < 2.0
    assert 2.5 < max(lengths) <= 3.0 + 1e-4


@pytest.mark.parametrize("name", ["ras", "oblique", "2-D oblique"])
def test_smooth_part_has_no_direction_of_its_own(name):
    warp = RandomWarp(**SMOOTH).set_random_state(seed=2)
    vectors = torch.cat([warp.smooth(GRIDS[name]).vectors.flatten(1) for _ in range(60)], dim=1)
    spread = vectors.std(dim=1)
    assert spread.min() > 0.7 * spread.max()
    assert vectors.mean(dim=1).norm() < 0.4 * spread.min()


@pytest.mark.parametrize(
    "grid",
    [
        make_grid((40, 30, 44), rotation(3, 25) @ np.diag([1.0, -1, 1]), (1.0, 1.5, 0.8), (30.0, -20, 10)),
        make_grid((50, 40), rotation(2, -40), (0.9, 1.2), (4.0, 5)),
    ],
    ids=["3-D", "2-D"],
)
def test_smooth_part_is_a_cubic_spline_whose_knots_are_millimeters_apart(grid):
    field = RandomWarp(control_spacing=(9.0, 9.0)).set_random_state(seed=0).smooth(grid)
    for axis, size in enumerate(grid.spacing.tolist()):
        assert unlike_a_spline(field.vectors.numpy(), axis + 1, size, 9.0) < 1e-4
        assert unlike_a_spline(field.vectors.numpy(), axis + 1, size, 12.3) > 0.01


def test_control_points_lie_as_far_apart_as_stated():
    """The finest wiggles and the smoothest curves of many draws are those of the two limits."""
    grid = Grid((60, 60), torch.eye(3))

    def roughness(control_spacing: tuple[float, float], seed: int) -> float:
        vectors = RandomWarp(control_spacing=control_spacing).set_random_state(seed=seed).smooth(grid).vectors
        return float(vectors.diff(n=2, dim=1).std() / vectors.std())

    fine, coarse = ([roughness((step, step), seed) for seed in range(12)] for step in (6.0, 24.0))
    drawn = [roughness((6.0, 24.0), seed) for seed in range(40)]
    assert min(fine) > max(coarse)
    assert 0.5 * min(coarse) < min(drawn) < 1.5 * max(coarse)
    assert 0.7 * min(fine) < max(drawn) < 1.5 * max(fine)


@grids
def test_affine_part_stays_within_its_bounds_about_the_center(grid):
    n = grid.ndim
    warp = RandomWarp(rotation=12.0, translation=5.0, scaling=0.2).set_random_state(seed=3)
    angles, sizes, shifts = [], [], []
    for _ in range(80):
        affine, _ = parts(warp, grid)
        linear = affine.matrix[:n, :n].numpy()
        scales = np.linalg.norm(linear, axis=0)
        turn = linear / scales
        np.testing.assert_allclose(turn.T @ turn, np.eye(n), atol=1e-12)
        assert np.linalg.det(turn) > 0
        angles.append(math.degrees(math.acos(min(1.0, (np.trace(turn) - (n - 2)) / 2))))
        sizes += scales.tolist()
        shifts += (affine(grid.center) - grid.center).tolist()
    assert 10.0 < max(angles) <= 12 + 1e-6
    assert 0.8 <= min(sizes) < 0.83 and 1.17 < max(sizes) <= 1.2
    assert -5 <= min(shifts) < -4.5 and 4.5 < max(shifts) <= 5


def test_turns_are_about_axes_of_every_direction():
    warp = RandomWarp(rotation=20.0).set_random_state(seed=4)
    axes = []
    for _ in range(200):
        matrix = warp.affine(GRIDS["ras"]).matrix[:3, :3].numpy()
        turn = matrix / np.linalg.norm(matrix, axis=0)
        axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
        axes.append(axis / np.linalg.norm(axis))
    # Directions evenly over the sphere: a third of the square along each of the world's axes, and none before others.
    assert np.abs(np.mean(axes, axis=0)).max() < 0.2
    np.testing.assert_allclose(np.mean(np.square(axes), axis=0), 1 / 3, atol=0.1)


@grids
def test_nothing_to_draw_is_the_identity(grid):
    warp = RandomWarp(displacement=0.0, rotation=0.0, translation=0.0, scaling=0.0).set_random_state(seed=0)
    points = points_in(grid)
    torch.testing.assert_close(warp(grid)(points), points)


@st.composite
def any_grids(draw: st.DrawFn) -> Grid:
    """2-D or 3-D, turned anyhow, mirrored or not, voxels of 0.5 to 4 mm."""
    n = draw(st.sampled_from([2, 3]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(int(size) for size in random.integers(1, 13, n))
    spacing = np.exp(random.uniform(np.log(0.5), np.log(4), n))
    return make_grid(shape, ortho_group.rvs(n, random_state=random), spacing, random.uniform(-100, 100, n))


@given(
    grid=any_grids(),
    seed=st.integers(0, 2**32 - 1),
    # 2.48 times the displacement is where the limit on folds begins to hold lengths back.
    displacement=st.sampled_from([0.1, 4.0, 20.0, 1e4]),
    control_spacing=st.sampled_from([1.0, 5.0, 9.92, 49.6, 300.0]),
)
def test_no_map_folds_however_much_is_asked_for(grid, seed, displacement, control_spacing):
    warp = RandomWarp(
        displacement, (control_spacing, 1.2 * control_spacing), rotation=180.0, translation=50.0, scaling=0.9
    )
    drawn = warp.set_random_state(seed=seed)(grid)
    points = drawn(grid.coordinates())
    assert points.isfinite().all()
    if min(grid.shape) > 1:
        assert least_determinant(points.numpy(), grid) > 0
    field = drawn.transforms[-1]
    assert 0 < field.vectors.norm(dim=0).max() <= displacement * (1 + 1e-5)


class WorstState:
    """In place of a random state: the largest coefficients there can be, in the diagonal direction of the world that is
    nearest to an axis of the lattice, whose signs along that axis squeeze a cell most: + + - -.
    """

    def __init__(self, directions: np.ndarray, axis: int, start: int) -> None:
        self.diagonal, self.axis, self.start = np.sign(directions[:, axis]), axis, start

    def uniform(self, low: float, high: float, size: tuple[int, ...] | None = None) -> Any:
        if size is None:
            return high
        n = len(size) - 1
        signs = np.where((np.arange(size[1 + self.axis]) + self.start) // 2 % 2 == 0, 1.0, -1.0)
        vectors = np.ones(size) * self.diagonal.reshape(-1, *[1] * n)
        return high * vectors * signs.reshape([1, *[-1 if k == self.axis else 1 for k in range(n)]])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "directions",
    [
        np.eye(2),
        np.array([[1, -1], [1, 1]]) / math.sqrt(2),
        np.eye(3),
        np.array([[1, 1, 1], [1, -1, 1], [1, 0, -2]]) / np.sqrt([3, 2, 6]),
    ],
    ids=["2-D", "2-D diagonal", "3-D", "3-D diagonal"],
)
def test_not_even_the_worst_of_all_draws_folds(directions, axis):
    n = len(directions)
    grid = make_grid((32, 32, 5)[:n], directions, (0.75,) * n, (0.0,) * n)
    warp = RandomWarp(displacement=1e6, control_spacing=(8.0, 8.0))
    least = []
    for start in (0, 2):  # the second has the other signs
        warp.R = WorstState(directions, axis, start)
        least.append(least_determinant(warp.smooth(grid)(grid.coordinates()).numpy(), grid))
    assert 0 < min(least) < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"displacement": -1.0}, "at least 0.*-1"),
        ({"rotation": -0.1}, "at least 0.*-0.1"),
        ({"translation": -2.0}, "at least 0.*-2"),
        ({"scaling": -0.05}, "at least 0.*-0.05"),
        ({"scaling": 1.0}, "scaling below 1"),
        ({"control_spacing": (0.0, 10.0)}, r"control_spacing.*\(0.0, 10.0\)"),
        ({"control_spacing": (20.0, 10.0)}, r"control_spacing.*\(20.0, 10.0\)"),
        ({"control_spacing": (-5.0, 10.0)}, "control_spacing"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomWarp(**arguments)
