# SPDX-License-Identifier: Apache-2.0
"""Transforms of points against closed forms, SciPy, and their own inverses."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from regplugins.spatial import AffineTransform, CompositeTransform, DisplacementField, Grid, SpatialTransform
from tests.itk_truth import GRIDS, points_in, random_affine, random_field

grids = pytest.mark.parametrize("grid", [GRIDS[k] for k in ("las", "oblique", "anisotropic", "2-D oblique")])


def homogeneous(matrix: torch.Tensor, points: torch.Tensor) -> np.ndarray:
    """Map (number, n) points by a matrix, in NumPy."""
    ones = np.ones((len(points), 1))
    return (np.hstack([points.numpy(), ones]) @ matrix.numpy().T)[:, :-1]


@pytest.mark.parametrize("ndim", [2, 3])
def test_affine_maps_composes_and_inverts(ndim: int) -> None:
    a, b = random_affine(ndim), random_affine(ndim)
    points = torch.randn(50, ndim, dtype=torch.float64) * 100
    composed = AffineTransform(a) @ AffineTransform(b)
    assert isinstance(composed, AffineTransform)
    np.testing.assert_allclose(AffineTransform(a)(points), homogeneous(a, points), atol=1e-10)
    np.testing.assert_allclose(composed(points), homogeneous(a @ b, points), atol=1e-10)
    np.testing.assert_allclose((~composed)(composed(points)), points, atol=1e-9)
    np.testing.assert_array_equal(AffineTransform.identity(ndim)(points), points)
    assert composed(points.float().view(5, 10, ndim)).dtype == torch.float32


@grids
def test_field_is_interpolated_linearly_and_continues_from_its_border(grid: Grid) -> None:
    field = random_field(grid)
    index = torch.rand(300, grid.ndim, dtype=torch.float64) * (torch.tensor(grid.shape) + 20) - 10
    assert not grid.contains(grid.index_to_world(index)).all()
    expected = [map_coordinates(u, index.T, order=1, mode="nearest") for u in field.vectors.double().numpy()]
    points = grid.index_to_world(index)
    np.testing.assert_allclose(field(points) - points, np.stack(expected, axis=-1), atol=1e-4)


def test_points_of_integers_move_by_fractions() -> None:
    grid = Grid((4, 4, 4), torch.eye(4, dtype=torch.float64))
    field = DisplacementField(torch.full((3, 4, 4, 4), 0.5), grid)
    assert field(torch.tensor([[1, 2, 1]])).tolist() == [[1.5, 2.5, 1.5]]


def test_field_of_a_single_slice_moves_what_lies_beside_it_too() -> None:
    grid = Grid((1, 5, 6), torch.diag(torch.tensor([3.0, 1, 1, 1])))
    field = DisplacementField(torch.randn(3, 1, 5, 6), grid)
    beside = grid.coordinates()[0] + torch.tensor([40.0, 0, 0])
    np.testing.assert_allclose((field(beside) - beside).movedim(-1, 0), field.vectors[:, 0], atol=1e-5)


@grids
def test_voxel_displacements_mean_the_same_as_millimeters(grid: Grid) -> None:
    ddf = torch.randn(grid.ndim, *grid.shape)
    field = DisplacementField.from_ddf(ddf, grid)
    index = torch.from_numpy(np.indices(grid.shape)).double()
    expected = grid.index_to_world((index + ddf).movedim(0, -1))
    np.testing.assert_allclose(field.map_grid(grid), expected, atol=1e-4)
    np.testing.assert_allclose(field.to_ddf(), ddf, atol=1e-5)


def test_conversion_is_in_float32_under_autocast() -> None:
    grid, ddf = GRIDS["oblique"], torch.randn(3, *GRIDS["oblique"].shape)
    expected = DisplacementField.from_ddf(ddf, grid)
    with torch.autocast("cpu", torch.bfloat16):
        field = DisplacementField.from_ddf(ddf, grid)
        mapped = field(grid.coordinates())
    assert torch.equal(field.vectors, expected.vectors)
    assert torch.equal(mapped, expected(grid.coordinates()))


@grids
def test_field_and_inverse_undo_each_other(grid: Grid) -> None:
    field = random_field(grid, size=1.0)
    inverse = ~field
    at_voxels = (field @ inverse).map_grid(grid) - grid.coordinates()
    assert at_voxels.norm(dim=-1).max() < 2e-3 * grid.spacing.max()
    # Between voxels, and the other way round, up to interpolation; away from the border, where fields are continued.
    points = points_in(grid.resized(grid.spacing * 0.6, grid.shape))
    moved = (field(points) - points).norm(dim=-1).max()
    for back_and_forth in (inverse(field(points)), field(inverse(points))):
        left = (back_and_forth - points).norm(dim=-1)
        assert left.mean() < 0.03 * moved
        assert left.max() < 0.2 * moved


@grids
def test_residual_is_what_the_inverse_leaves_in_millimeters(grid: Grid) -> None:
    field = random_field(grid, size=6.0)
    inverse = field.inverse(grid)
    left = (field @ inverse).map_grid(grid) - grid.coordinates()
    np.testing.assert_allclose(inverse.residual, left.norm(dim=-1), atol=1e-4)


def test_a_field_on_parallel_grids_is_sampled_as_scipy_has_it() -> None:
    """Coarser, finer, permuted and flipped grids that reach beyond the field."""
    grid = GRIDS["oblique"]
    field = random_field(grid)
    permuted = torch.tensor([[0.0, -0.7, 0, 21], [0, 0, 1.3, -2], [0.45, 0, 0, 1], [0, 0, 0, 1]]).double()
    for to_index in (torch.diag(torch.tensor([0.3, 0.8, 1.7, 1.0]).double()), permuted):
        target = Grid((30, 24, 19), grid.affine @ to_index)
        index = (target.coordinates() - grid.affine[:3, 3]) @ torch.linalg.inv(grid.affine[:3, :3]).T
        truth = [
            map_coordinates(part, index.movedim(-1, 0), order=1, mode="nearest") for part in field.vectors.double()
        ]
        np.testing.assert_allclose(field.sample(target).vectors, np.stack(truth), atol=2e-6)


def test_inverse_covers_what_the_field_maps_out_of_its_grid() -> None:
    """A field that enlarges by half about the center, in closed form."""
    grid = GRIDS["oblique"]
    field = DisplacementField((0.5 * (grid.coordinates() - grid.center)).movedim(-1, 0), grid)
    points = grid.center + 0.85 * (points_in(grid) - grid.center)
    outside = field(points)
    assert (~grid.contains(outside)).sum() > 50
    np.testing.assert_allclose((~field)(outside), points, atol=0.02)
    far = DisplacementField(torch.full((3, *grid.shape), 1e4), grid)
    assert max((~far).grid.shape) <= 2 * max(grid.shape)


def test_inverse_on_another_grid() -> None:
    field, other = random_field(GRIDS["oblique"]), GRIDS["ras"].resized([1.5, 1.5, 1.5], [12, 12, 12])
    inverse = field.inverse(other)
    assert inverse.grid is other
    points = points_in(other.resized(other.spacing, [6, 6, 6]))
    assert (field(inverse(points)) - points).norm(dim=-1).max() < 0.1


@grids
def test_composites_apply_the_last_first(grid: Grid) -> None:
    a, b = AffineTransform(random_affine(grid.ndim)), AffineTransform(random_affine(grid.ndim))
    f, g = random_field(grid), random_field(grid)
    points = points_in(grid)
    expected = a(b(f(g(a(points)))))
    composite = a @ b @ f @ g @ a
    assert isinstance(composite, CompositeTransform)
    np.testing.assert_allclose(composite(points), expected, atol=1e-9)
    nested = CompositeTransform([a, CompositeTransform([b, f]), CompositeTransform([g, a])])
    kinds = [AffineTransform, DisplacementField, DisplacementField, AffineTransform]
    assert [type(part) for part in composite.transforms] == [type(part) for part in nested.transforms] == kinds
    np.testing.assert_allclose(nested(points), expected, atol=1e-9)


@grids
def test_composite_and_inverse_undo_each_other(grid: Grid) -> None:
    # The affine takes the field's grid into itself, so that the inverse field is not asked beyond its border.
    matrix = torch.eye(grid.ndim + 1, dtype=torch.float64)
    matrix[: grid.ndim, : grid.ndim] = 0.7 * torch.eye(grid.ndim)
    matrix[: grid.ndim, grid.ndim] = 0.3 * grid.center
    inner = AffineTransform(matrix)
    transform = AffineTransform(random_affine(grid.ndim)) @ random_field(grid, 0.5) @ inner
    points = points_in(grid)
    assert ((~transform)(transform(points)) - points).norm(dim=-1).quantile(0.95) < 0.05


@grids
def test_mapping_a_grid_is_mapping_its_points(grid: Grid) -> None:
    other = grid.resized(grid.spacing * 1.3)
    affine, field = AffineTransform(random_affine(grid.ndim)), random_field(grid)
    transforms: list[SpatialTransform] = [
        affine,
        field,
        affine @ field,
        field @ affine,
        affine @ random_field(other) @ field,
    ]
    for transform in transforms:
        for target in (grid, other):
            expected = transform(target.coordinates(slice(1, 4)))
            np.testing.assert_allclose(transform.map_grid(target, slice(1, 4)), expected, atol=1e-4)


@grids
def test_sampled_transform_moves_the_grid_alike(grid: Grid) -> None:
    transform = AffineTransform(random_affine(grid.ndim)) @ random_field(grid)
    other = grid.resized(grid.spacing * 0.7)
    sampled = transform.sample(other)
    points = other.coordinates()
    assert sampled.grid is other
    np.testing.assert_allclose(sampled.vectors.movedim(0, -1), transform(points) - points, atol=1e-4)


def test_things_that_do_not_belong_together_are_refused() -> None:
    grid = GRIDS["ras"]
    with pytest.raises(ValueError, match=r"\(3, 20, 22, 18\).*\(2, 20, 22, 18\)"):
        DisplacementField(torch.zeros(2, *grid.shape), grid)
    with pytest.raises(ValueError, match="dimension"):
        AffineTransform.identity(2) @ AffineTransform.identity(3)
    with pytest.raises(ValueError, match="dimension"):
        CompositeTransform([])
    with pytest.raises(ValueError, match="3 x 3 or 4 x 4"):
        AffineTransform(torch.eye(5))
    with pytest.raises(ValueError, match="finite"):
        AffineTransform(torch.full((4, 4), float("inf")))
    with pytest.raises(ValueError, match="last row"):
        AffineTransform(torch.ones(4, 4))


@grids
def test_affine_fitted_to_a_transform(grid: Grid) -> None:
    truth = AffineTransform(random_affine(grid.ndim))
    found = AffineTransform.fitted(truth.sample(grid), grid)  # vectors are kept in float32
    points = points_in(grid, 50)
    np.testing.assert_allclose(found(points), truth(points), atol=1e-3)
    for size in (grid.shape[-1], 1):
        found = AffineTransform.fitted(truth, Grid((*grid.shape[:-1], size), grid.affine))
        np.testing.assert_allclose(found.matrix, truth.matrix, atol=1e-9)
