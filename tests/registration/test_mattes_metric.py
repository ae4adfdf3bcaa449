# SPDX-License-Identifier: Apache-2.0
"""Mutual information and its gradient against the paper, ITK and differences; its overlap against the grids."""

import os
from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from regplugins.io.itk_bridge import affine_parameters, flip_matrix, flip_points, image_to_itk, itk_class
from regplugins.registration import Volume
from regplugins.registration.mattes_metric import MutualInformation
from regplugins.spatial import AffineTransform, Grid
from tests.itk_truth import GRIDS, make_grid, random_affine, rotation, translation
from tests.registration.heads import Contrast, ct, head, motion, mr

FIXED = make_grid((40, 46, 38), np.eye(3), (4.0, 4.0, 4.2), (4.0, -8.0, 11.0))
MOVING = make_grid((44, 40, 42), rotation(3, -25) @ np.diag([1.0, 1, -1]), (4.1, 4.4, 4.0), (16.0, -20.0, 20.0))


def volume(contrast: Contrast, grid: Grid, moved: Tensor | None = None) -> Volume:
    return Volume.prepare("image", head(contrast, grid, moved), grid)


def at(volume: Volume, points: Tensor) -> np.ndarray:
    """Linear interpolation at world points (number, n), by SciPy."""
    return map_coordinates(volume.values.numpy(), volume.grid.world_to_index(points).numpy().T, order=1, mode="nearest")


def mattes(fixed: np.ndarray, moving: np.ndarray, ranges: list[tuple[float, float]], bins: int) -> float:
    """The paper's equations: a box window on the fixed intensities, a cubic B-spline on the moving ones."""
    places = []
    for values, (low, high) in zip((fixed, moving), ranges, strict=True):
        places.append((values - low) / (high - low) * (bins - 4) + 2)
    row = np.floor(places[0]).clip(2, bins - 3).astype(int)
    joint = np.zeros((bins, bins))
    for column in range(bins):
        distance = np.abs(column - places[1])
        window = np.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, (2 - distance).clip(0) ** 3 / 6)
        np.add.at(joint[:, column], row, window)
    joint /= joint.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return float((joint[joint > 0] * np.log(joint[joint > 0] / independent[joint > 0])).sum())


def test_value_is_that_of_the_paper() -> None:
    transform = AffineTransform(motion(7.0, (5.0, -3.0, 6.0)))
    fixed, moving = volume(mr, FIXED), volume(ct, MOVING, transform.matrix)
    for matrix in (transform.matrix, torch.eye(4, dtype=torch.float64)):
        information = MutualInformation(fixed, moving, 5000, 24, 0)
        there = AffineTransform(matrix)(information.points)
        seen = MOVING.contains(there)
        ranges = [(float(v.values.min()), float(v.values.max())) for v in (fixed, moving)]
        expected = mattes(at(fixed, information.points[seen]), at(moving, there[seen]), ranges, 24)
        assert information.value(matrix[None])[0].item() == pytest.approx(expected, rel=1e-4)


def itk_mattes(fixed: Volume, moving: Volume, matrix: Tensor, points: Tensor, bins: int) -> tuple[float, Tensor]:
    """Mutual information and its gradient (n + 1, n + 1) by ITK."""
    n = fixed.grid.ndim
    transform = itk_class("AffineTransform", f"D{n}").New()
    transform.SetParameters(affine_parameters(matrix))
    metric = itk_class("MattesMutualInformationImageToImageMetricv4", f"IF{n}IF{n}").New()
    metric.SetNumberOfHistogramBins(bins)
    images = [image_to_itk(image.values, image.grid) for image in (fixed, moving)]
    metric.SetFixedImage(images[0])
    metric.SetVirtualDomainFromImage(images[0])
    metric.SetMovingImage(images[1])
    metric.SetMovingTransform(transform)
    metric.SetUseFixedImageGradientFilter(False)
    metric.SetUseMovingImageGradientFilter(False)
    # The 64-bit index type has another name on Windows.
    container = itk_class("PyVectorContainer", "ULLF" if os.name == "nt" else "ULF")
    point_set = itk_class("PointSet", f"F{n}").New()
    point_set.SetPoints(container.vector_container_from_array(flip_points(points).flatten().float().numpy()))
    metric.SetVirtualSampledPointSet(point_set)
    metric.SetUseVirtualSampledPointSet(True)
    metric.SetUseSampledPointSet(True)
    metric.SetMaximumNumberOfWorkUnits(1)
    metric.Initialize()
    derivative = itk_class("Array", "D")()
    metric.GetDerivative(derivative)
    flat = torch.tensor([derivative.GetElement(k) for k in range(n * n + n)], dtype=torch.float64)
    gradient = torch.zeros_like(matrix)
    gradient[:n, :n], gradient[:n, n] = flat[: n * n].view(n, n), flat[n * n :]
    return -metric.GetCurrentValue(), flip_matrix(gradient)


@pytest.mark.parametrize("n", [2, 3])
def test_value_and_gradient_are_those_of_itk(n: int) -> None:
    """A point in each voxel: the histogram's range is in ITK that of the fixed voxels with a point.

    ITK differentiates between neighbors half a voxel away, which is exact for images that are linear along axes.
    """

    def ramps(size: int, directions: np.ndarray, weights: tuple[float, ...]) -> Volume:
        grid = make_grid((size, size + 3, size - 2)[:n], directions, (2.0,) * n, (3.0, -2.0, 5.0)[:n])
        index = torch.cartesian_prod(*[torch.linspace(-1, 2, length) for length in grid.shape]).view(*grid.shape, n)
        return Volume("image", (index * torch.tensor(weights[:n])).sum(dim=-1) + index.prod(dim=-1), grid)

    fixed, moving = ramps(17, np.diag([-1.0, 1, -1][:n]), (1.0, -0.4, 0.3)), ramps(40, np.eye(n), (0.2, 0.9, -0.5))
    information = MutualInformation(fixed, moving, 10**5, 24, 0)
    matrices = torch.eye(n + 1, dtype=torch.float64).repeat(3, 1, 1)
    matrices[1:, :n, :n] += 0.1 * torch.randn(2, n, n, generator=torch.Generator().manual_seed(1))
    matrices[1:, :n, n] = torch.tensor([2.0, -3.0, 1.0][:n])
    values, overlaps, gradients = information.gradient(matrices)
    assert (overlaps == len(information.points)).all()
    torch.testing.assert_close(information.value(matrices)[0], values)
    for matrix, value, gradient in zip(matrices, values, gradients, strict=True):
        expected, slope = itk_mattes(fixed, moving, matrix, information.points, 24)
        assert value.item() == pytest.approx(expected, rel=1e-4)
        assert (gradient - slope).norm() < 1e-4 * slope.norm()


@pytest.mark.parametrize("n", [2, 3])
def test_gradient_is_the_change_of_the_value(n: int) -> None:
    fixed_grid = make_grid((40, 46, 38)[:n], np.eye(n), (4.0,) * n, (4.0, -8.0, 11.0)[:n])
    moving_grid = make_grid((90, 92, 94)[:n], rotation(n, -25) @ np.diag([1.0, -1, 1][:n]), (4.1,) * n, (5.0,) * n)
    fixed, moving = volume(mr, fixed_grid), volume(ct, moving_grid)
    # No point may leave the moving image: what that changes, no gradient tells.
    information = MutualInformation(fixed, moving, 20_000, 24, 0)
    matrix = torch.eye(n + 1, dtype=torch.float64)
    matrix[:n, n] = torch.tensor([2.5, -1.5, 2.0][:n])
    (overlap,), (gradient,) = information.gradient(matrix[None])[1:]
    assert overlap == len(information.points)
    assert gradient[n].abs().max() == 0
    for row, column in product(range(n), range(n + 1)):
        change = torch.zeros_like(matrix)
        change[row, column] = 1e-3 if column == n else 1e-5
        up, down = information.value(torch.stack([matrix + change, matrix - change]))[0]
        slope = (up - down) / (2 * change.max())
        assert (gradient[row, column] - slope).abs() < 0.03 * gradient[:, column].norm()


@pytest.mark.parametrize(
    ("fixed", "moving"), [("oblique", "small"), ("left-handed oblique", "ras"), ("2-D", "2-D oblique")]
)
def test_overlap_counts_the_points_that_land_in_the_moving_image(fixed: str, moving: str) -> None:
    volumes = [Volume("image", torch.rand(GRIDS[name].shape), GRIDS[name]) for name in (fixed, moving)]
    information = MutualInformation(*volumes, 2000, 16, 3)
    transform = AffineTransform(random_affine(GRIDS[fixed].ndim))
    inside = GRIDS[moving].contains(transform(information.points))
    assert 0 < inside.sum() < 2000
    assert information.value(transform.matrix[None])[1] == inside.sum()


def test_what_surrounds_a_mask_is_not_counted() -> None:
    """Air beside it and bone, neither within its range of values: the value stays that of a histogram."""
    grid = Grid((64, 40, 40), torch.eye(4, dtype=torch.float64))
    values = 100 + 20 * torch.randn(grid.shape)
    values[:20], values[44:] = 0, 400
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[20:44] = True
    noise = Volume("image", values, grid, mask).downsampled(16**3)
    shifts = torch.stack([translation(float(shift), 0.0, 0.0).matrix for shift in range(9)])
    found, _ = MutualInformation(noise, noise, 5000, 32, 0).value(shifts)
    assert found.min() >= 0 and found.max() <= np.log(32)
    assert found.argmax() == 0


def test_points_are_spread_over_the_visible_voxels() -> None:
    grid = GRIDS["left-handed oblique"]
    mask = torch.zeros(grid.shape, dtype=torch.bool)
    mask[3:9, 4:8, 5:] = True
    fixed = Volume("fixed", torch.rand(grid.shape), grid, mask)
    points = MutualInformation(fixed, fixed, 10**6, 16, 0).points
    index = grid.world_to_index(points).round().long()
    assert sorted(index.tolist()) == mask.nonzero().tolist()


def test_seed_chooses_the_points() -> None:
    fixed = Volume("fixed", torch.rand(GRIDS["small"].shape), GRIDS["small"])
    one, same, other = (MutualInformation(fixed, fixed, 100, 16, seed).points for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_nothing_to_share() -> None:
    grid = GRIDS["ras"]
    noise, blank = Volume("fixed", torch.rand(grid.shape), grid), Volume("moving", torch.ones(grid.shape), grid)
    for moving, matrix in ((noise, translation(1000.0, 0.0, 0.0).matrix), (blank, torch.eye(4, dtype=torch.float64))):
        information = MutualInformation(noise, moving, 500, 16, 0)
        for result in (*information.gradient(matrix[None]), *information.value(matrix[None])):
            assert result.abs().max() == 0
