# SPDX-License-Identifier: Apache-2.0
"""Rigid and affine registration by optimization recovers known transforms."""

import math

import pytest
import torch
from torch import Tensor, nn

from regplugins.losses import LocalNCCLoss, NCCLoss, PairLoss, SquaredGradientLoss
from regplugins.registration import AffineInitializer, AffineRegistration, DeformableRegistration, ImagePair
from regplugins.spatial import AffineTransform, Grid, resample
from tests.registration.pairs import textured, with_a_hole


def moved(grid: Grid, world: Tensor) -> Tensor:
    """A pair whose fixed image is the moving one through a transform of the world."""
    moving = textured(*grid.shape)
    return torch.cat([moving, resample(moving[0], grid, grid, AffineTransform(world), fill=None)[None]], dim=1)


def turn(n: int, degrees: float) -> Tensor:
    matrix = torch.eye(n + 1, dtype=torch.float64)
    angle = math.radians(degrees)
    matrix[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix[:n, n] = torch.tensor([2.0, -1.5, 1.0][:n])
    return matrix


def centered(shape: tuple[int, ...], spacing: list[float]) -> Grid:
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    affine[:-1, -1] = -(torch.tensor(shape, dtype=torch.float64) - 1) / 2 * torch.tensor(spacing, dtype=torch.float64)
    return Grid(shape, affine)


@pytest.mark.parametrize(("shape", "spacing"), [((40, 44), [1.0, 1.0]), ((33, 30, 20), [1.0, 1.0, 1.6])])
@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_a_known_motion_is_found(shape, spacing, kind):
    grid, n = centered(shape, spacing), len(shape)
    world = turn(n, 6.0)
    if kind == "affine":
        world[:n, :n] @= torch.diag(torch.tensor([1.05, 0.97, 1.02][:n], dtype=torch.float64))
    found = AffineRegistration(NCCLoss(), kind, [(2, 60), (1, 40)], spacing)(moved(grid, world))[0]
    in_world = grid.affine @ found @ torch.linalg.inv(grid.affine)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * n).double() * grid.affine[:n, n].abs()
    away = (AffineTransform(in_world)(corners) - AffineTransform(world)(corners)).norm(dim=1)
    assert away.max() < 0.5 < (corners - AffineTransform(world)(corners)).norm(dim=1).min()
    if kind == "rigid":
        torch.testing.assert_close(in_world[:n, :n] @ in_world[:n, :n].T, torch.eye(n, dtype=torch.float64))


def test_a_field_begins_with_it():
    """A turn whose displacement at the border no field finds that looks at a few voxels around."""
    grid, world = centered((60, 64), [1.5, 1.5]), turn(2, 25.0)
    pair = moved(grid, world)
    truth = AffineTransform(world).sample(grid).to_ddf()
    linear = AffineRegistration(NCCLoss(), "rigid", [(6, 100), (3, 60)], 1.5)
    matrix = grid.affine @ linear(pair)[0] @ torch.linalg.inv(grid.affine)
    field = AffineTransform(matrix).sample(grid).to_ddf()
    objective = PairLoss(LocalNCCLoss(7), SquaredGradientLoss(), 0.05)
    errors = []
    for first in (None, AffineInitializer(linear)):
        found = DeformableRegistration(objective, [(1.5, 20)], 1.5, initializer=first)(pair)[0]
        errors.append((found - truth)[:, 8:-8, 8:-8].norm(dim=0).mean())
    assert errors[1] < 0.5 < 2 < errors[0]
    image_pair = ImagePair(pair[:, :1], pair[:, 1:])
    torch.testing.assert_close(AffineInitializer(linear)(image_pair)[0], field, rtol=0, atol=1e-3)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_what_is_masked_out_does_not_count(side):
    class Pointwise(nn.Module):
        def forward(self, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
            return ((warped - fixed).square() * (torch.ones(1) if mask is None else mask)).mean()

    optimizer = AffineRegistration(Pointwise(), "affine", [(1, 20)])
    (first, masks), (second, _) = (with_a_hole(side, content) for content in (0.0, 7.0))
    found = optimizer(first, **masks)
    assert torch.equal(found, optimizer(second, **masks))
    assert not torch.equal(found, optimizer(second))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "similar"}, r"kind must be one of \['affine', 'rigid'\], got 'similar'"),
        ({"step": 0}, "step must be positive, got 0"),
        ({"levels": [(1.0, 1)], "spacing": [1.0, 2.0]}, r"spacing \[1.0, 2.0\] for images of 3 axes"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        AffineRegistration(NCCLoss(), **options)(torch.rand(1, 2, 8, 8, 8))
