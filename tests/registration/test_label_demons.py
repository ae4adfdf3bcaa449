# SPDX-License-Identifier: Apache-2.0
"""Registration of label maps on any grid, without folding."""

import pytest
import torch
from torch import Tensor

from regplugins.metrics import folding_percent, label_overlap
from regplugins.registration import align_labels
from regplugins.spatial import Grid, jacobian_determinant, resample_labels


def tilted_grid(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Grid:
    """Left-handed, oblique, its voxels of several sizes."""
    n = len(shape)
    affine = torch.eye(n + 1, dtype=torch.float64)
    turn = torch.tensor([[0.96, -0.28], [0.28, 0.96]], dtype=torch.float64)
    affine[:2, :2] = turn
    affine[:n, :n] = affine[:n, :n] @ torch.diag(torch.tensor(spacing, dtype=torch.float64))
    affine[0, :n] *= -1
    affine[:n, n] = torch.tensor([30.0, -12.0, 7.0], dtype=torch.float64)[:n]
    return Grid(shape, affine)


def balls(grid: Grid, *centers_and_radii: tuple[list[float], float]) -> Tensor:
    """Labels 1, 2, ... of balls given in mm along the grid's axes."""
    points = torch.stack(torch.meshgrid(*[torch.arange(size) for size in grid.shape], indexing="ij"), dim=-1)
    points = points * grid.spacing
    labels = torch.zeros(grid.shape, dtype=torch.int32)
    for value, (center, radius) in enumerate(centers_and_radii, start=1):
        labels[(points - torch.tensor(center)).norm(dim=-1) < radius] = value
    return labels[None]


CASES = [
    ((44, 40), (1.0, 1.3), (([16.0, 20.0], 8.0), ([30.0, 32.0], 7.0)), (([19.0, 18.0], 9.0), ([27.0, 35.0], 6.0))),
    (
        (36, 30, 24),
        (1.0, 1.2, 1.5),
        (([12.0, 18.0, 14.0], 7.0), ([25.0, 18.0, 20.0], 6.0)),
        (([13.0, 15.0, 16.0], 8.0), ([28.0, 20.0, 21.0], 5.0)),
    ),
]


@pytest.mark.parametrize(("shape", "spacing", "fixed", "moving"), CASES, ids=["2-D", "3-D"])
def test_structures_meet(shape, spacing, fixed, moving):
    grid = tilted_grid(shape, spacing)
    ours, others = balls(grid, *fixed), balls(grid, *moving)
    field = align_labels(ours, others, grid)
    assert folding_percent(jacobian_determinant(field.to_ddf()[None])) == 0
    before = label_overlap(others, ours, spacing)
    after = label_overlap(resample_labels(others, grid, grid, field), ours, spacing)
    for value in (1, 2):
        assert before[value]["dice"] < 0.75
        assert after[value]["dice"] > 0.93


def test_equal_labels_stay():
    grid = tilted_grid((24, 24), (1.0, 1.0))
    labels = balls(grid, ([12.0, 12.0], 6.0))
    assert align_labels(labels, labels, grid).to_ddf().abs().max() < 1e-3


def test_a_structure_of_one_alone_is_left_out():
    grid = tilted_grid((30, 30), (1.0, 1.0))
    fixed = balls(grid, ([12.0, 12.0], 6.0))
    moving = balls(grid, ([12.0, 12.0], 6.0), ([25.0, 25.0], 3.0))
    assert align_labels(fixed, moving, grid).to_ddf().abs().max() < 1e-3


def test_nothing_in_common():
    grid = tilted_grid((8, 8), (1.0, 1.0))
    with pytest.raises(ValueError, match="no structure in common"):
        align_labels(torch.ones(1, 8, 8, dtype=torch.int32), torch.full((1, 8, 8), 2, dtype=torch.int32), grid)
    with pytest.raises(ValueError, match="expected two label maps"):
        align_labels(torch.ones(1, 8, 8), torch.ones(1, 8, 9), grid)
