# SPDX-License-Identifier: Apache-2.0
"""Convex initializer on pairs with large known displacements."""

import math

import pytest
import torch

from regplugins.registration import ConvexInitializer, DeformableRegistration, ImagePair, convex
from regplugins.spatial import invert_ddf, jacobian_determinant
from tests.registration.pairs import OBJECTIVE, textured, warped_pair, with_a_hole


def scene_of(pair: torch.Tensor, **masks: torch.Tensor) -> ImagePair:
    return ImagePair(pair[:, :1], pair[:, 1:], **masks)


@pytest.mark.parametrize("shift", [(9, -6), (4, 6, -5)])
def test_a_large_shift_is_found(shift):
    shape = (72, 68) if len(shift) == 2 else (40, 42, 38)
    moving = textured(*[size + 20 for size in shape])
    inner = [slice(10, 10 + size) for size in shape]
    there = [slice(10 + way, 10 + way + size) for way, size in zip(shift, shape, strict=True)]
    pair = torch.cat([moving[(..., *inner)], moving[(..., *there)]], dim=1)
    found = ConvexInitializer(reach=max(shift) + 2, image_spacing=1.0)(scene_of(pair))
    # What is near the border of the one image is beyond that of the other.
    middle = (..., *[slice(16, size - 16) for size in shape])
    expected = torch.tensor(shift, dtype=torch.float32).view(1, -1, *[1] * len(shape)).expand_as(found)
    assert (found - expected).norm(dim=1, keepdim=True)[middle].mean() < 0.3
    out_of_reach = ConvexInitializer(reach=2.0, image_spacing=1.0)(scene_of(pair))
    assert out_of_reach.abs().max() <= 2


def test_millimeters():
    pair, _ = warped_pair(33, 36)
    ways = [(8.0, 2.0, 1.0), (16.0, 4.0, 2.0), (16.0, 4.0, [2.0, 5.0])]
    first, *others = [ConvexInitializer(*arguments)(scene_of(pair)) for arguments in ways]
    assert all(torch.equal(first, other) for other in others)
    assert first.abs().max() > 0.5


def test_of_two_pairs_each_is_found_and_nothing_folds():
    pair, truth = warped_pair(33, 36)
    both = torch.cat([pair, pair.flip(1)])
    found = ConvexInitializer(reach=4.0, image_spacing=1.0)(scene_of(both))
    for field, true in zip(found, (truth[0], invert_ddf(truth)[0][0]), strict=True):
        assert (field - true).norm(dim=0).mean() < 0.5 * true.norm(dim=0).mean()
    assert jacobian_determinant(found).min() > 0


def test_a_volume_of_one_slice():
    moving = textured(72, 68)[..., None]
    pair = torch.cat([moving, moving.roll((-7, 5), (2, 3))], dim=1)
    found = ConvexInitializer(reach=9.0, image_spacing=1.0)(scene_of(pair))
    truth = torch.tensor([7.0, -5.0]).view(1, 2, 1, 1, 1)
    assert (found[:, :2] - truth)[..., 12:-12, 12:-12, :].norm(dim=1).mean() < 1


def test_optimizer_starts_from_it_and_from_a_start_given_before():
    """A shift that the cost alone, which sees a few voxels around, cannot find."""
    moving = textured(72, 68)
    pair = torch.cat([moving, moving.roll((-7, 5), (2, 3))], dim=1)
    truth = torch.tensor([7.0, -5.0]).view(1, 2, 1, 1).expand(1, 2, 72, 68)
    coarse = ConvexInitializer(reach=9.0, image_spacing=1.0)
    middle = (slice(None), slice(None), slice(12, -12), slice(12, -12))
    for start in (None, truth / 2):
        errors = []
        for first in (None, coarse):
            found = DeformableRegistration(OBJECTIVE, [(1, 30)], initializer=first)(pair, start)
            errors.append((found - truth)[middle].norm(dim=1).mean())
        assert errors[1] < 0.5 < errors[0]


@pytest.mark.parametrize("symmetric", [False, True])
def test_of_several_starts_each_pair_keeps_the_first_unless_another_is_clearly_better(symmetric):
    moving = textured(72, 68).double()  # Adam enlarges rounding
    still, far = (torch.cat([moving, moving.roll(shift, (2, 3))], dim=1) for shift in ((1, 0), (-7, 5)))
    coarse = ConvexInitializer(reach=9.0, image_spacing=1.0)

    def other(images):
        return coarse(images) + 0.6  # not what the optimum is

    def registered(pair, initializer):
        levels = [(2, 60), (1, 5)]
        return DeformableRegistration(OBJECTIVE, levels, initializer=initializer, symmetric=symmetric).register(pair)

    def found(pair, initializer):
        return registered(pair, initializer)[0]

    starts = [lambda images: images.fixed.new_zeros(2, 2, 72, 68), other]
    together, kept = registered(torch.cat([still, far]), starts)
    assert kept == starts
    for field, pair, first in zip(together.split(1), (still, far), (None, other), strict=True):
        torch.testing.assert_close(field, found(pair, first), atol=1e-3, rtol=0)
    assert not torch.allclose(found(still, None), found(still, other), atol=1e-2)


@pytest.mark.parametrize(
    ("costs", "kept"),
    [
        ((0.5, 0.48), 0),
        ((0.5, 0.46), 1),
        ((0.5, 0.46, 0.45), 2),
        ((0.5, 0.6), 0),
        ((math.nan, 0.5), 1),
        ((0.5, math.nan), 0),
    ],
)
def test_another_start_must_leave_clearly_less_of_the_cost(costs, kept):
    class Excess(torch.nn.Module):
        """-1 for equal images."""

        def forward(self, fields, target):
            return fields[0].mean() - 1

    pair = ImagePair(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
    fields = [torch.full((1, 2, 8, 8), value) for value in costs]
    best, indices = DeformableRegistration(Excess(), [(1, 1)])._best(fields, pair)
    assert torch.equal(best.nan_to_num(), fields[kept].nan_to_num())
    assert indices == [kept]


def test_with_a_mask_the_first_start_is_used_alone():
    """A field that moves the mask off the mismatch would have the lowest cost."""
    pair, _ = warped_pair(33, 36)
    mask = torch.zeros(1, 1, 33, 36)
    mask[..., 8:20, 8:20] = 1
    away = [lambda images: torch.zeros(1, 2, 33, 36), lambda images: torch.full((1, 2, 33, 36), 30.0)]
    first, both = (
        DeformableRegistration(OBJECTIVE, [(1, 10)], initializer=starts)(pair, moving_mask=mask)
        for starts in (away[:1], away)
    )
    assert torch.equal(first, both)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_what_is_masked_out_does_not_count(side):
    optimizer = ConvexInitializer(reach=4.0, image_spacing=1.0, descriptor=torch.nn.Identity())
    (first, masks), (second, _) = (with_a_hole(side, content) for content in (0.0, 7.0))
    found = optimizer(scene_of(first, **masks))
    assert torch.equal(found, optimizer(scene_of(second, **masks)))
    assert not torch.equal(found, optimizer(scene_of(second)))
    assert found.abs().max() >= 1


@pytest.mark.parametrize("masks", [{}, {"fixed_mask": torch.ones(1, 1, 33, 36).tril()}])
def test_in_parts_as_in_one(masks, monkeypatch):
    pair, _ = warped_pair(33, 36)
    start = ConvexInitializer(reach=4.0, image_spacing=1.0)
    whole = start(scene_of(pair, **masks))
    monkeypatch.setattr(convex, "_CHUNK_COSTS", 500)
    assert torch.equal(start(scene_of(pair, **masks)), whole)


def test_where_nothing_is_to_be_seen_nothing_moves():
    pair, _ = warped_pair(33, 36)
    start = ConvexInitializer(reach=4.0, image_spacing=1.0)
    assert start(scene_of(torch.ones(1, 2, 33, 36))).abs().max() == 0
    assert start(scene_of(pair, fixed_mask=torch.zeros(1, 1, 33, 36))).abs().max() == 0


def test_images_too_thin_to_be_halved_do_not_take_all_memory():
    thin = torch.rand(1, 2, 1200, 1200, 15)
    with pytest.raises(ValueError, match=r"up to 10 voxels along each axis of \(300, 300, 15\) would take .* smaller"):
        ConvexInitializer(reach=80.0, image_spacing=8.0, spacing=2.0)(scene_of(thin))


def test_a_shift_is_found_along_an_axis_that_is_not_halved():
    moving = textured(72, 68, 16)
    pair = torch.cat([moving, moving.roll((8, -4, 2), (2, 3, 4))], dim=1)
    found = ConvexInitializer(reach=10.0, image_spacing=2.0)(scene_of(pair))
    middle = found[..., 16:-16, 16:-16, 5:-5].flatten(2).mean(dim=2)[0]
    torch.testing.assert_close(middle, torch.tensor([-8.0, 4.0, -2.0]), atol=0.7, rtol=0)
