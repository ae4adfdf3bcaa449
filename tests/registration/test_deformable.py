# SPDX-License-Identifier: Apache-2.0
"""Deformable registration recovers a known warp with every parametrization and improves its initial field."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.losses import MaskedLoss
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from regplugins.losses import LocalNCCLoss, MINDLoss, PairLoss, SquaredGradientLoss
from regplugins.registration import (
    AffineRegistration,
    BSplineField,
    CompositiveField,
    DeformableRegistration,
    GreedyField,
    ImagePair,
    StationaryVelocityField,
)
from regplugins.spatial import compose_ddf, identity_grid, jacobian_determinant, warp
from tests.registration.pairs import OBJECTIVE, textured, warped_pair, with_a_hole


def error(found: Tensor, truth: Tensor) -> float:
    """Remaining error of a known warp, where the warp is not zero."""
    inside = truth.norm(dim=1) > 0.5
    return float((found - truth).norm(dim=1)[inside].mean() / truth.norm(dim=1)[inside].mean())


@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        ((33, 36), [(1, 60)]),
        ((33, 36), [(2, 40), (1, 40)]),
        ((33, 36), [(64, 40), (1, 40)]),
        ((25, 26, 24), [(2, 40), (1, 40)]),
    ],
)
def test_pair_finds_a_known_warp(shape, levels):
    pair, truth = warped_pair(*shape)
    found = DeformableRegistration(OBJECTIVE, levels)(pair)
    assert error(found, truth) < 0.3
    assert jacobian_determinant(found).min() > 0
    assert not found.requires_grad


@pytest.mark.parametrize(
    "model", [StationaryVelocityField(), BSplineField(), CompositiveField(smoothing=0), GreedyField()]
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_model_does(model, symmetric):
    pair, truth = warped_pair(33, 36)
    found = DeformableRegistration(OBJECTIVE, [(2, 40), (1, 40)], parametrization=model, symmetric=symmetric)(pair)
    assert error(found, truth) < 0.35
    assert not found.requires_grad


@pytest.mark.parametrize("model", [CompositiveField(), GreedyField()])
def test_every_pair_of_a_batch_is_registered_as_if_alone(model):
    (one, _), (other, _) = warped_pair(24, 25), warped_pair(24, 25)
    # The second pair is nearly aligned: its gradients are smaller.
    pairs = torch.cat([one, torch.lerp(other[:, :1], other, 0.1)])
    optimizer = DeformableRegistration(OBJECTIVE, [(2, 10), (1, 10)], parametrization=model)
    together, alone = optimizer(pairs), torch.cat([optimizer(pair[None]) for pair in pairs])
    torch.testing.assert_close(together, alone, atol=0.02, rtol=0)


def test_greedy_composition_does_not_depend_on_the_scale_of_the_cost():
    pair, _ = warped_pair(33, 36)
    found = [
        DeformableRegistration(
            PairLoss(LocalNCCLoss(5), SquaredGradientLoss(), 0.0, [weight]), [(1, 10)], parametrization=GreedyField()
        )(pair)
        for weight in (1.0, 4.0)
    ]
    torch.testing.assert_close(*found)
    assert found[0].abs().max() > 1


@pytest.mark.parametrize("shape", [(9, 12), (7, 1, 8)])
def test_greedy_composition_leaves_affine_fields_up_to_the_border(shape):
    n = len(shape)
    start = torch.einsum("ij,j...->i...", 0.1 * torch.rand(n, n), identity_grid(list(shape)))[None] + 2
    optimizer = GreedyField().optimizer(start, 30)
    for _ in range(30):
        optimizer.step(lambda ddf: 0 * ddf.sum())
    # The sum of the filter's weights is not quite 1.
    torch.testing.assert_close(optimizer.ddf, start, atol=1e-3, rtol=0)


def test_a_step_of_greedy_composition():
    """In SciPy, for a field that is zero: ``-step v / (|v| + m / 2)``, smoothed, for ``v`` the smoothed gradient."""
    gradient = torch.rand(1, 2, 20, 24, dtype=torch.float64)
    optimizer = GreedyField(1.7, 0.5, 0.5).optimizer(torch.zeros_like(gradient), 2)
    optimizer.step(lambda ddf: (gradient * ddf).sum())
    v = np.stack([gaussian_filter(part, 1.7, mode="constant") for part in gradient[0].numpy()])
    size = np.sqrt((v**2).sum(axis=0))
    update = -0.5 * v / (size + np.quantile(size, 0.99) / 2)
    expected = np.stack([gaussian_filter(part, 0.5, mode="nearest") for part in update])
    inside = (slice(None), slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(optimizer.ddf[0].numpy()[inside], expected[inside], atol=0.01)


def test_symmetric_of_the_images_swapped_is_the_inverse():
    pair, truth = warped_pair(33, 36)
    optimizer = DeformableRegistration(OBJECTIVE, [(2, 30), (1, 30)], symmetric=True)
    there, back = optimizer(pair), optimizer(pair.flip(1))
    assert compose_ddf(back, there).norm(dim=1).mean() < 0.02
    one_way = DeformableRegistration(OBJECTIVE, [(2, 30), (1, 30)])
    assert compose_ddf(one_way(pair.flip(1)), one_way(pair)).norm(dim=1).mean() > 0.05
    assert error(there, truth) < 0.35


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_what_is_masked_out_does_not_count(side, symmetric):
    optimizer = DeformableRegistration(Pointwise(), [(1, 20)], symmetric=symmetric)
    (first, masks), (second, _) = (with_a_hole(side, content) for content in (0.0, 7.0))
    found = optimizer(first, **masks)
    assert torch.equal(found, optimizer(second, **masks))
    assert not torch.equal(found, optimizer(second))
    assert found.abs().max() > 0.5


@pytest.mark.parametrize("symmetric", [False, True])
def test_masks_of_everything_are_no_masks(symmetric):
    pair, _ = warped_pair(33, 36)
    objective = PairLoss(LocalNCCLoss(5), SquaredGradientLoss(), 0.3)
    optimizer = DeformableRegistration(objective, [(2, 10), (1, 10)], symmetric=symmetric)
    expected, everything = optimizer(pair), torch.ones(1, 1, 33, 36)
    assert expected.abs().max() > 1
    for sides in (["fixed_mask"], ["moving_mask"], ["fixed_mask", "moving_mask"]):
        # Adam enlarges what rounding leaves of a gradient that is zero.
        torch.testing.assert_close(optimizer(pair, **dict.fromkeys(sides, everything)), expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_image_twice_stays_where_it_is(symmetric):
    pair = warped_pair(33, 36)[0][:, :1].repeat(1, 2, 1, 1)
    for model in (CompositiveField(), GreedyField(), StationaryVelocityField(), BSplineField()):
        found = DeformableRegistration(OBJECTIVE, [(2, 20), (1, 20)], parametrization=model, symmetric=symmetric)(pair)
        assert found.norm(dim=1).mean() < 0.1


class Pointwise(nn.Module):
    """An objective that looks at no voxel's neighbors."""

    def forward(self, fields: list[Tensor], target: dict[str, Tensor]) -> Tensor:
        difference = (warp(target["moving"], fields[0]) - target["fixed"]).square()
        return (difference * target.get("mask", torch.ones(1))).mean() + 0.05 * SquaredGradientLoss()(fields[0])


def test_a_level_ends_once_its_cost_has_settled():
    class Counting(nn.Module):
        calls = 0

        def forward(self, fields: list[Tensor], target: dict[str, Tensor]) -> Tensor:
            self.calls += 1
            return OBJECTIVE(fields, target)

    pair, truth = warped_pair(33, 36)
    counting = Counting()
    found = DeformableRegistration(counting, [(1, 1000)], tolerance=0.01)(pair)
    assert 20 <= counting.calls < 300
    assert error(found, truth) < 0.35


def test_pair_starts_where_it_is_told():
    pair, truth = warped_pair(32, 32)
    found = DeformableRegistration(OBJECTIVE, [(1, 3)])(pair, truth)
    assert (found - truth).norm(dim=1).mean() < 0.25 < truth.norm(dim=1).mean()


def test_tensors_with_metadata_are_as_others():
    """The images, what to start from, and masks."""
    pair, truth = warped_pair(24, 25)
    masks = {key: torch.rand(1, 1, 24, 25) for key in ("fixed_mask", "moving_mask")}
    optimizer = DeformableRegistration(OBJECTIVE, [(2, 5), (1, 5)])
    expected = optimizer(pair, 0.5 * truth, **masks)
    given = {key: MetaTensor(mask) for key, mask in masks.items()}
    found = optimizer(MetaTensor(pair), MetaTensor(0.5 * truth), **given)
    assert not isinstance(found, MetaTensor) and torch.equal(found, expected)


def test_pair_is_mirrored_with_its_images():
    # Of 2^k + 1 voxels, every second one is the same from either end.
    pair, truth = warped_pair(33, 17)
    optimizer = DeformableRegistration(OBJECTIVE, [(2, 10), (1, 10)])
    found, mirrored = optimizer(pair, truth / 2), optimizer(pair.flip(2), mirror(truth / 2))
    torch.testing.assert_close(mirror(mirrored), found, atol=1e-3, rtol=0)
    assert found.abs().max() > 1


def mirror(ddf: Tensor) -> Tensor:
    """Turn a field about along the first axis."""
    return ddf.flip(2) * ddf.new_tensor([-1, 1]).view(1, 2, 1, 1)


def test_levels_are_millimeters():
    pair, truth = warped_pair(33, 36)
    start = torch.zeros_like(truth)
    ways = [([(2, 5), (1, 5)], 1.0), ([(8, 5), (4, 5)], 4.0), ([(0.9, 5), (0.5, 5)], [0.5, 2.0])]
    first, *others = [DeformableRegistration(OBJECTIVE, levels, spacing)(pair, start) for levels, spacing in ways]
    assert all(torch.equal(first, other) for other in others)
    assert not torch.equal(first, DeformableRegistration(OBJECTIVE, [(2, 5), (1, 5)], 4.0)(pair, start))


@pytest.mark.parametrize(("size", "same"), [(62, True), (63, False)])
def test_no_level_of_a_field_has_fewer_than_16_voxels_an_axis(size, same):
    pair, _ = warped_pair(size, 62)
    levels = [(4, 3), (2, 5)], [(2, 5)]
    both, fine_alone = (DeformableRegistration(OBJECTIVE, some)(pair) for some in levels)
    assert torch.equal(both, fine_alone) == same


def test_a_thin_axis_does_not_keep_the_others_from_being_halved():
    pair = textured(40, 36, 12).repeat(1, 2, 1, 1, 1)
    *_, coarsest = ImagePair.of(pair, None, None).pyramid(5).values()
    slices = pair[0, :1].movedim(-1, 0)
    for _ in range(2):
        slices = nn.functional.avg_pool2d(slices, 3, stride=2, padding=1, count_include_pad=False)
    torch.testing.assert_close(coarsest.fixed[0, 0], slices[:, 0].movedim(0, -1))


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_scale_of_the_objective_does_not_matter(factor):
    class Scaled(nn.Module):
        def forward(self, fields: list[Tensor], target: dict[str, Tensor]) -> Tensor:
            return factor * OBJECTIVE(fields, target)

    pair, truth = warped_pair(33, 36)
    found = [DeformableRegistration(loss, [(1, 10)])(pair, torch.zeros_like(truth)) for loss in (OBJECTIVE, Scaled())]
    torch.testing.assert_close(*found, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("levels", "spacing", "message"),
    [
        ([], 1.0, "got \\[\\]"),
        ([(2, 0)], 1.0, "the iterations of a level must be a whole number of at least 1, got 0"),
        ([(1, 5), (2, 5)], 1.0, "coarsest level must come first"),
        ([(-1, 5)], 1.0, "the spacing of a level must be positive, got -1"),
        ([(1, 5)], 0.0, "spacing must be positive, got 0.0"),
        ([[8]], 1.0, r"pairs of a spacing in mm and a number of iterations, got \[\[8\]\]"),
        (8, 1.0, r"pairs of a spacing in mm and a number of iterations, got 8"),
        ([8, 5], 1.0, r"pairs of a spacing in mm and a number of iterations, got \[8, 5\]"),
        ([(8, 2.5)], 1.0, "the iterations of a level must be a whole number of at least 1, got 2.5"),
        ([(float("inf"), 5)], 1.0, "the spacing of a level must be finite in single precision, got inf"),
        ([("wide", 5)], 1.0, "the spacing of a level must be a number, got 'wide'"),
        ([(1, 5)], "wide", "spacing must be a number, got 'wide'"),
    ],
)
def test_levels_that_are_none(levels, spacing, message):
    with pytest.raises(ValueError, match=message):
        DeformableRegistration(OBJECTIVE, levels, spacing)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_no_field_gains_by_moving_a_mask(side):
    """Two constant images have nothing to align, even if a mask hides part of their difference."""
    pair = torch.stack([torch.zeros(1, 24, 24), torch.ones(1, 24, 24)], dim=1).squeeze(2)
    mask = torch.zeros(1, 1, 24, 24)
    mask[..., 8:16, 8:16] = 1
    optimizer = DeformableRegistration(Masked(), [(1, 5)], symmetric=True)
    assert optimizer(pair, **{f"{side}_mask": mask}).abs().max() == 0


class Masked(nn.Module):
    """The squared difference over a mask, not divided by how large that is."""

    def forward(self, fields: list[Tensor], target: dict[str, Tensor]) -> Tensor:
        return (target["mask"] * (warp(target["moving"], fields[0]) - target["fixed"]).square()).sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parametrization": "velocity"}, "must be a Parametrization, such as CompositiveField\\(\\), got 'velocity'"),
        ({"symmetric": "yes"}, "symmetric must be True or False, got 'yes'"),
    ],
)
def test_options_of_another_type(options, message):
    with pytest.raises(TypeError, match=message):
        DeformableRegistration(OBJECTIVE, [(1, 5)], **options)


@pytest.mark.parametrize("objective", [nn.MSELoss(), MINDLoss(), MaskedLoss(nn.L1Loss)])
def test_a_similarity_alone_is_no_objective(objective):
    with pytest.raises(TypeError, match=f"objective must take \\(fields, target\\), .* got {type(objective).__name__}"):
        DeformableRegistration(objective, [(1, 5)])


def test_an_objective_may_hide_its_arguments_names():
    def wrapped(*args: Any) -> Tensor:
        return OBJECTIVE(*args)

    pair, _ = warped_pair(33, 36)
    assert torch.equal(*(DeformableRegistration(loss, [(1, 3)])(pair) for loss in (OBJECTIVE, wrapped)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int16])
def test_images_without_derivatives(dtype):
    pair = torch.zeros(1, 2, 16, 16)
    for optimizer in (DeformableRegistration(OBJECTIVE, [(1, 5)]), AffineRegistration(nn.MSELoss())):
        with pytest.raises(TypeError, match=f"expected images in float32 or float64, got {dtype}"):
            optimizer(pair.to(dtype))
        with torch.inference_mode(), pytest.raises(RuntimeError, match=r"use torch\.no_grad"):
            optimizer(pair)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pair": torch.rand(1, 3, 16, 16)}, r"a pair \(B, 2, \*spatial\), got shape \(1, 3, 16, 16\)"),
        ({"pair": torch.full((1, 2, 16, 16), torch.nan)}, "not finite"),
        ({"start": torch.zeros(1, 2, 20, 20)}, r"start: expected shape \(1, 2, 16, 16\), got \(1, 2, 20, 20\)"),
        ({"fixed_mask": torch.ones(1, 16, 16)}, r"fixed_mask: expected shape \(1, 1, 16, 16\)"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        DeformableRegistration(OBJECTIVE, [(1, 1)])(**{"pair": torch.rand(1, 2, 16, 16), **given})


def test_masks_of_any_type_count():
    pair, _ = warped_pair(33, 36)
    mask = torch.rand(1, 1, 33, 36) > 0.3
    found = [DeformableRegistration(OBJECTIVE, [(1, 5)])(pair, fixed_mask=one) for one in (mask, mask.float())]
    assert torch.equal(*found)
