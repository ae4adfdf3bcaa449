# SPDX-License-Identifier: Apache-2.0
"""Algebra of displacement fields against closed forms and SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.interpolate import interpn
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter, map_coordinates

from regplugins.spatial import (
    compose_ddf,
    identity_grid,
    integrate_velocity,
    invert_ddf,
    jacobian_determinant,
    subsample_ddf,
    upsample_ddf,
    upsample_ddf_by_axis,
)


def affine_ddf(matrix: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """x -> A (x - c) + c, about the grid's center c."""
    grid = identity_grid(list(shape), dtype=torch.float64).flatten(1)
    center = (torch.tensor(shape, dtype=torch.float64)[:, None] - 1) / 2
    return ((matrix - torch.eye(len(shape))) @ (grid - center)).view(1, len(shape), *shape)


def smooth_ddf(shape: tuple[int, ...], amplitude: float) -> torch.Tensor:
    """Sine waves that vanish at the border of the grid."""
    grid = identity_grid(list(shape), dtype=torch.float64)
    sizes = torch.tensor(shape, dtype=torch.float64).view(-1, *[1] * len(shape)) - 1
    bump = torch.sin(torch.pi * grid / sizes).prod(dim=0)
    return amplitude * torch.stack([bump * torch.cos(k + grid.sum(dim=0) / 9) for k in range(len(shape))])[None]


def inner(tensor: torch.Tensor, margin: int) -> torch.Tensor:
    return tensor[(..., *[slice(margin, -margin)] * (tensor.dim() - 2))]


def test_composition_of_affine_maps_is_the_product_of_their_matrices():
    a = torch.tensor([[1.02, 0.03, 0.0], [-0.02, 0.97, 0.01], [0.0, 0.02, 1.01]], dtype=torch.float64)
    b = torch.tensor([[0.98, -0.04, 0.01], [0.02, 1.03, 0.0], [0.01, 0.0, 0.99]], dtype=torch.float64)
    shape = (16, 18, 14)
    composed = compose_ddf(affine_ddf(a, shape), affine_ddf(b, shape))
    torch.testing.assert_close(inner(composed, 3), inner(affine_ddf(a @ b, shape), 3))


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2)])
def test_subsampling_undoes_upsampling(shape):
    ddf = torch.randn(2, len(shape), *shape)
    torch.testing.assert_close(subsample_ddf(upsample_ddf(ddf, 4), 4), ddf)


def test_upsampling_by_a_factor_of_each_axis_is_linear_interpolation():
    factors = (2, 1, 4)
    ddf = torch.randn(1, 3, 4, 5, 3)
    fine = upsample_ddf_by_axis(ddf, factors)
    nodes = [np.arange(size) * factor for size, factor in zip(ddf.shape[2:], factors, strict=True)]
    points = np.stack(np.meshgrid(*[np.arange(last[-1] + 1) for last in nodes], indexing="ij"), axis=-1)
    for axis, factor in enumerate(factors):
        expected = factor * interpn(nodes, ddf[0, axis].numpy(), points)
        found = fine[0, axis][tuple(slice(size) for size in expected.shape)]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_constant_velocity_integrates_to_itself_up_to_the_border():
    velocity = torch.tensor([2.5, -1.25, 0.75]).view(1, 3, 1, 1, 1).expand(1, 3, 6, 7, 8)
    torch.testing.assert_close(integrate_velocity(velocity), velocity)


def test_exponential_of_a_linear_velocity_is_the_matrix_exponential():
    generator = np.array([[0.02, 0.1, 0.0], [-0.1, 0.01, 0.03], [0.0, -0.03, -0.02]])
    shape = (20, 22, 18)
    velocity = affine_ddf(torch.from_numpy(generator) + torch.eye(3), shape)
    expected = affine_ddf(torch.from_numpy(expm(generator)), shape)
    # Scaling and squaring is of first order in 2 ** -steps.
    torch.testing.assert_close(inner(integrate_velocity(velocity, steps=12), 4), inner(expected, 4), atol=2e-3, rtol=0)


def test_exponential_of_the_negative_velocity_is_the_inverse():
    velocity = smooth_ddf((24, 22, 20), 3.0)
    residual = compose_ddf(integrate_velocity(velocity), integrate_velocity(-velocity))
    assert residual.abs().max() < 0.1 < integrate_velocity(velocity).abs().max()


def test_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="-1"):
        integrate_velocity(torch.zeros(1, 2, 4, 4), steps=-1)


def test_fields_of_a_batch_and_voxels_are_inverted_one_by_one(monkeypatch):
    ddfs = torch.cat([smooth_ddf((9, 10, 11), 2.0), -smooth_ddf((9, 10, 11), 1.5)])
    together = invert_ddf(ddfs)
    monkeypatch.setattr("regplugins.spatial.inversion._CHUNK", 37)
    for k in range(2):
        for alone, both in zip(invert_ddf(ddfs[k : k + 1]), together, strict=True):
            torch.testing.assert_close(alone[0], both[k])


@pytest.mark.parametrize("degrees", [60.0, -90.0, 150.0])
def test_a_field_that_turns_everything_is_inverted(degrees):
    # About the grid's center; the plain fixed-point iteration runs away.
    angle = torch.tensor(degrees).deg2rad().double()
    matrix = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    places = torch.stack(torch.meshgrid(*[torch.arange(-20.0, 21.0, dtype=torch.float64)] * 2, indexing="ij"))
    ddf = torch.einsum("kl,lij->kij", matrix - torch.eye(2, dtype=torch.float64), places)[None]
    inverse = invert_ddf(ddf)[0][0]
    inside = places.norm(dim=0) < 19
    truth = torch.einsum("kl,lij->kij", matrix.T - torch.eye(2, dtype=torch.float64), places)
    torch.testing.assert_close(inverse[:, inside], truth[:, inside], atol=2e-3, rtol=0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_where_volume_grows_and_shrinks_tenfold_the_inverse_is_exact(ndim):
    """Up to ``x -> 4 x`` along each axis, where the plain fixed-point iteration diverges."""
    shape = (40, 36, 30)[:ndim]
    places = identity_grid(list(shape), dtype=torch.float64)
    waves = torch.sin(2 * torch.pi * places / torch.tensor(shape, dtype=torch.float64).view(-1, *[1] * ndim) * 2)
    ddf = (0.9 * torch.tensor(shape, dtype=torch.float64).view(-1, *[1] * ndim) / (4 * torch.pi) * waves)[None]
    assert jacobian_determinant(ddf).min() > 0
    inverse, residual = invert_ddf(ddf)
    assert residual.max() < 2e-3
    x = (places + inverse[0]).flatten(1)
    there = x + np.stack([map_coordinates(part, x, order=1, mode="nearest") for part in ddf[0]])
    np.testing.assert_allclose(there, places.flatten(1), atol=2e-3)


@pytest.mark.parametrize("size", [1.0, 3.0, 6.0])
def test_no_residual_is_larger_than_that_of_the_fixed_point_iteration(size):
    """Fields from smooth to folded; the plain iteration by SciPy."""
    noise = np.random.default_rng(0).standard_normal((2, 40, 40))
    ddf = np.stack([gaussian_filter(part, 3) for part in noise])
    ddf *= size / np.abs(ddf).max()
    places = np.indices(ddf.shape[1:], dtype=np.float64)

    def left(inverse):
        return inverse + np.stack([map_coordinates(part, places + inverse, order=1, mode="nearest") for part in ddf])

    plain = -ddf
    for _ in range(50):
        plain = plain - left(plain)
    inverse = invert_ddf(torch.from_numpy(ddf)[None])[0][0].numpy()
    ours, theirs = (np.linalg.norm(left(v), axis=0) for v in (inverse, plain))
    assert np.all(ours <= np.maximum(theirs, 1.5e-3))


def test_inverse_of_a_fold_leads_to_one_of_the_points_that_go_there():
    """A fold maps several points to one position, so that the inverse is one-sided."""
    folded = torch.zeros(1, 2, 12, 12, dtype=torch.float64)
    folded[0, 0, 4:8] = torch.tensor([3.0, 1.0, -1.0, -3.0], dtype=torch.float64)[:, None]
    assert jacobian_determinant(folded).min() < 0
    inverse, residual = invert_ddf(folded)
    assert residual.max() < 2e-3
    assert compose_ddf(inverse, folded).abs().max() > 1


def test_axis_of_one_voxel_does_not_change():
    ddf = torch.zeros(1, 3, 4, 1, 5)
    assert torch.equal(jacobian_determinant(ddf), torch.ones(1, 4, 1, 5))


def test_channels_must_fit_the_axes():
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4, 4\)"):
        jacobian_determinant(torch.zeros(1, 2, 4, 4, 4))


def test_gradient_flows_through_composition_and_exponential():
    velocity = 0.3 * torch.randn(1, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda v: integrate_velocity(v, steps=2), (velocity.requires_grad_(),))


@pytest.mark.parametrize("shape", [(5, 6), (4, 3, 5)])
def test_enlarged_ramp_is_the_finer_ramp(shape):
    """A slope of a tenth of a voxel per voxel is the same map on a grid four times as fine."""
    coarse, fine = (0.1 * identity_grid(list(sizes))[None] for sizes in (shape, [4 * size for size in shape]))
    enlarged = upsample_ddf(coarse, 4)
    assert enlarged.shape == fine.shape
    known = (..., *(slice(4 * size - 3) for size in shape))
    torch.testing.assert_close(enlarged[known], fine[known])


def test_inverse_and_jacobian_are_differentiable():
    # Off the lattice, where linear interpolation has a kink.
    ddf = (smooth_ddf((5, 6), 0.4) + 0.137).requires_grad_()
    assert torch.autograd.gradcheck(jacobian_determinant, (ddf,))
    assert torch.autograd.gradcheck(lambda u: invert_ddf(u)[0], (ddf,), atol=1e-3, rtol=1e-2)


def test_inverse_equals_itk():
    ddf = smooth_ddf((20, 22, 24), 2.0)
    vectors = ddf[0].flip(0).permute(3, 2, 1, 0).numpy().transpose(2, 1, 0, 3)  # (i, j, k, xyz of a unit grid: k, j, i)
    image = sitk.GetImageFromArray(np.ascontiguousarray(vectors), isVector=True)
    itk = sitk.GetArrayFromImage(sitk.InvertDisplacementField(image, 100, 1e-4, 1e-5))
    ours = invert_ddf(ddf, tolerance=1e-5)[0][0].flip(0).permute(1, 2, 3, 0).numpy()
    np.testing.assert_allclose(ours, itk, atol=5e-3)
