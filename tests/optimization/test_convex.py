# SPDX-License-Identifier: Apache-2.0
"""The start that looks at all displacements."""

from __future__ import annotations

import pytest
import torch

from regplugins.optimization import ConvexStart
from regplugins.spatial import jacobian_determinant
from tests.optimization.pairs import textured, warped_pair, with_a_hole


@pytest.mark.parametrize("shift", [(9, -6), (4, 6, -5)])
def test_a_large_shift_is_found(shift):
    shape = (72, 68) if len(shift) == 2 else (40, 42, 38)
    moving = textured(*[size + 20 for size in shape])
    inner = [slice(10, 10 + size) for size in shape]
    there = [slice(10 + way, 10 + way + size) for way, size in zip(shift, shape, strict=True)]
    pair = torch.cat([moving[(..., *inner)], moving[(..., *there)]], dim=1)
    found = ConvexStart(reach=max(shift) + 2, image_spacing=1.0)(pair)
    # What is near the border of the one image is beyond that of the other.
    middle = (..., *[slice(16, size - 16) for size in shape])
    expected = torch.tensor(shift, dtype=torch.float32).view(1, -1, *[1] * len(shape)).expand_as(found)
    assert (found - expected).norm(dim=1, keepdim=True)[middle].mean() < 0.3
    out_of_reach = ConvexStart(reach=2.0, image_spacing=1.0)(pair)
    assert out_of_reach.abs().max() <= 2


def test_millimetres():
    pair, _ = warped_pair(33, 36)
    ways = [(8.0, 2.0, 1.0), (16.0, 4.0, 2.0), (16.0, 4.0, [2.0, 5.0])]
    first, *others = [ConvexStart(*arguments)(pair) for arguments in ways]
    assert all(torch.equal(first, other) for other in others)
    assert first.abs().max() > 0.5


def test_starts_where_it_is_told_and_does_not_fold():
    pair, truth = warped_pair(33, 36)
    optimizer = ConvexStart(reach=4.0, image_spacing=1.0)
    for found in (optimizer(pair), optimizer(pair, truth)):
        assert (found - truth).norm(dim=1).mean() < 0.5 * truth.norm(dim=1).mean()
        assert jacobian_determinant(found).min() > 0


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_what_is_masked_out_does_not_count(side):
    optimizer = ConvexStart(reach=4.0, image_spacing=1.0, descriptor=torch.nn.Identity())
    (first, masks), (second, _) = (with_a_hole(side, content) for content in (0.0, 7.0))
    found = optimizer(first, **masks)
    assert torch.equal(found, optimizer(second, **masks))
    assert not torch.equal(found, optimizer(second))
    assert found.abs().max() >= 1


def test_bad_reach():
    with pytest.raises(ValueError, match="reach must be positive, got 0"):
        ConvexStart(reach=0)
