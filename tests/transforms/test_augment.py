# SPDX-License-Identifier: Apache-2.0
"""Random warps, patches, slices and motions of pairs whose images are known at every point of the world."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from regplugins.data import RandomWarp
from regplugins.spatial import AffineTransform, Grid, SpatialTransform, rigid_transform, warp
from regplugins.transforms import (
    AverageVolumed,
    RandFieldOfViewd,
    RandMotionPaird,
    RandPatchPaird,
    RandSlicePaird,
    RandWarpPaird,
)
from tests.itk_truth import translation

CASES = [((40, 36, 44), (1.0, 1.5, 0.8)), ((60, 50), (0.8, 1.1)), ((34, 30, 32), 1.2)]
cases = pytest.mark.parametrize(("shape", "spacing"), CASES, ids=["anisotropic", "2-D", "one number"])
# Affine maps about the center that do not take much of the image out of it.
MODEST = {"rotation": 5.0, "translation": 2.0, "scaling": 0.05}


class Noted(RandomWarp):
    """Keeps the map that it drew last."""

    def __call__(self, grid: Grid) -> SpatialTransform:
        self.drawn = super().__call__(grid)
        return self.drawn


class Known(RandomWarp):
    """Draws always the same map."""

    def __init__(self, transform: SpatialTransform) -> None:
        super().__init__()
        self.transform = transform

    def __call__(self, grid: Grid) -> SpatialTransform:
        return self.transform


def grid_of(shape: tuple[int, ...], spacing: tuple[float, ...] | float) -> Grid:
    sizes = spacing if isinstance(spacing, tuple) else (spacing,) * len(shape)
    return Grid(shape, torch.diag(torch.tensor([*sizes, 1.0], dtype=torch.float64)))


def hills(points: Tensor) -> Tensor:
    """A smooth image, a few units high and none of its waves shorter than 56 mm, at world points (..., n)."""
    phases = 2 * torch.pi * points / torch.tensor([62.0, 74.0, 56.0])[: points.shape[-1]]
    return (torch.sin(phases).sum(dim=-1) + torch.cos(phases + 1).prod(dim=-1)).float()


def valleys(points: Tensor) -> Tensor:
    """Another contrast of the same."""
    return torch.cos(hills(points))


def aligned(shape, spacing, moving=hills, fixed=hills) -> dict[str, Tensor]:
    points = grid_of(shape, spacing).coordinates()
    return {"moving": moving(points)[None], "fixed": fixed(points)[None]}


def far_inside(grid: Grid, *places: Tensor) -> Tensor:
    """Voxels that lie, as do their places in the world under some maps, two voxels or more within the grid."""
    known = torch.ones(grid.shape, dtype=torch.bool)
    for points in (grid.coordinates(), *places):
        index = grid.world_to_index(points)
        known &= ((index >= 2) & (index <= torch.tensor(grid.shape) - 3)).all(dim=-1)
    assert known.float().mean() > 0.1
    return known


@cases
def test_images_lie_where_the_maps_say(shape, spacing):
    """The moving image is seen through the common map, the fixed one through that after the one between them."""
    common, between = Noted(6.0, (24.0, 40.0), **MODEST), Noted(4.0, (16.0, 30.0), **MODEST)
    transform = RandWarpPaird(list(spacing) if isinstance(spacing, tuple) else spacing, common, between)
    pair = transform.set_random_state(seed=3)(aligned(shape, spacing, moving=valleys))
    grid = grid_of(shape, spacing)
    points = grid.coordinates()
    after_between = between.drawn(points)
    places = common.drawn(after_between)
    known = far_inside(grid, after_between, places, common.drawn(points))
    for key, contrast, where in (("moving", valleys, common.drawn(points)), ("fixed", hills, places)):
        assert pair[key].shape == (1, *shape)
        error = (pair[key][0] - contrast(where))[known].abs()
        unmoved = (contrast(points) - contrast(where))[known].abs()
        assert error.max() < 0.06
        assert unmoved.max() > 0.4


def test_shifts_in_millimeters_are_voxels_of_the_spacing():
    """3 mm are three voxels of the first axis, two of the second: whole ones need no interpolation."""
    images = {"moving": torch.rand(1, 12, 10, 9), "fixed": torch.rand(1, 12, 10, 9)}
    transform = RandWarpPaird((1.0, 1.5, 2.0), Known(translation(0.0, 3.0, -2.0)), Known(translation(3.0, 0.0, 4.0)))
    pair = transform(images)
    torch.testing.assert_close(pair["moving"][:, :, :-2, 1:], images["moving"][:, :, 2:, :-1])
    # Both shifts: three, two and one voxels.
    torch.testing.assert_close(pair["fixed"][:, :-3, :-2, :-1], images["fixed"][:, 3:, 2:, 1:])


def test_the_map_between_acts_before_the_common_one():
    """A common map that doubles about the corner turns a shift of 2 mm between the images into one of 4 mm."""
    doubled = AffineTransform(torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)))
    images = {key: torch.rand(1, 20, 20) for key in ("moving", "fixed")}
    pair = RandWarpPaird(1.0, Known(doubled), Known(translation(2.0, 0.0)))(images)
    torch.testing.assert_close(pair["moving"][:, :10, :10], images["moving"][:, ::2, ::2])
    torch.testing.assert_close(pair["fixed"][:, :8, :10], images["fixed"][:, 4::2, ::2])


def test_other_keys_and_the_given_images_are_left_alone():
    images = aligned((16, 16), 2.0) | {"weight": torch.ones(1)}
    before = {key: value.clone() for key, value in images.items()}
    pair = RandWarpPaird(2.0, RandomWarp(), RandomWarp())(images)
    assert set(pair) == set(images)
    assert pair["weight"] is images["weight"]
    assert all(torch.equal(images[key], before[key]) for key in before)


def warped(transform: RandWarpPaird | Compose, seed: int) -> dict[str, Tensor]:
    transform.set_random_state(seed=seed)
    return transform(aligned((24, 22, 20), 2.0))


def test_the_state_says_it_all():
    def transform() -> RandWarpPaird:
        return RandWarpPaird(2.0, RandomWarp(), RandomWarp())

    one = transform()
    first, second = warped(one, 4), one(aligned((24, 22, 20), 2.0))
    again, other = warped(transform(), 4), warped(one, 5)
    for key in ("moving", "fixed"):
        assert torch.equal(first[key], again[key])
        assert (first[key] - second[key]).abs().max() > 0.2
        assert (first[key] - other[key]).abs().max() > 0.2
    # Two draws, not one twice: else the second warp would be the first once more.
    common, between = Noted(), Noted()
    RandWarpPaird(2.0, common, between).set_random_state(seed=4)(aligned((24, 22, 20), 2.0))
    points = torch.rand(20, 3) * 40
    assert (common.drawn(points) - between.drawn(points)).norm(dim=1).max() > 0.5


def test_amplitudes_are_drawn_from_none_to_all():
    """The displacement between the images is that of the whole warp, multiplied by a uniform factor."""
    grid = grid_of((12, 12, 12), 2.0)
    between = RandomWarp(4.0, (20.0, 30.0), rotation=0.0, translation=2.0, scaling=0.0)
    image = torch.zeros(1, *grid.shape)
    random = RandWarpPaird(2.0, RandomWarp(0.0, **dict.fromkeys(MODEST, 0.0)), between, min_amplitude=0.0)
    whole = RandWarpPaird(2.0, RandomWarp(0.0, **dict.fromkeys(MODEST, 0.0)), between)
    item = {"moving": image, "fixed": image, "kind": torch.tensor(1)}
    factors = []
    for seed in range(200):
        part, full = (each.set_random_state(seed=seed)(item)["truth"] for each in (random, whole))
        factors.append(float((part * full).sum() / full.square().sum()))
        torch.testing.assert_close(part, factors[-1] * full, rtol=1e-4, atol=1e-5)
    assert_uniform(factors)


def assert_uniform(factors: list[float]) -> None:
    assert min(factors) < 0.05 and max(factors) > 0.95
    assert abs(np.mean(factors) - 0.5) < 3.3 * (1 / 12 / len(factors)) ** 0.5


@pytest.mark.parametrize("amplitude", [-0.1, 1.1])
def test_no_such_amplitude(amplitude):
    with pytest.raises(ValueError, match="min_amplitude must be between 0 and 1"):
        RandWarpPaird(2.0, RandomWarp(), RandomWarp(), min_amplitude=amplitude)
    with pytest.raises(ValueError, match="min_amplitude must be between 0 and 1"):
        RandMotionPaird(2.0, (8, 8, 8), RandomWarp(), min_amplitude=amplitude)


class TestPatches:
    NAMES = ("moving", "fixed", "moving_paired", "fixed_paired")

    def numbered(self, *shape: int) -> dict[str, Tensor]:
        """Every voxel holds its number, so that a patch tells where it was cut; the images differ by an offset."""
        numbers = torch.arange(float(np.prod(shape))).view(1, *shape)
        return {name: numbers + 1e6 * (k + 1) for k, name in enumerate(self.NAMES)}

    @pytest.mark.parametrize("shape", [(9, 12), (8, 9, 10)])
    def test_all_images_are_cut_at_one_place(self, shape):
        size = (4, 6, 8)[: len(shape)]
        cut = RandPatchPaird(size).set_random_state(seed=0)
        corners = set()
        for _ in range(40):
            patches = cut(self.numbered(*shape))
            for k, name in enumerate(self.NAMES):
                assert patches[name].shape == (1, *size)
                assert torch.equal(patches[name] - 1e6 * k, patches["moving"])
            corner = np.unravel_index(int(patches["moving"].flatten()[0] - 1e6), shape)
            inner = (slice(None), *(slice(begin, begin + step) for begin, step in zip(corner, size, strict=True)))
            assert torch.equal(patches["moving"], self.numbered(*shape)["moving"][inner])
            corners.add(tuple(map(int, corner)))
        assert len(corners) > 5

    def test_every_place_is_drawn_the_last_ones_too(self):
        cut = RandPatchPaird([4, 8]).set_random_state(seed=0)
        first = {int(cut(self.numbered(6, 9))["moving"][0, 0, 0] - 1e6) for _ in range(200)}
        assert first == {9 * row + column for row in range(3) for column in range(2)}

    def test_the_same_seed_cuts_the_same(self):
        one, other = (RandPatchPaird([5, 5]).set_random_state(seed=3)(self.numbered(30, 30)) for _ in range(2))
        assert torch.equal(one["fixed"], other["fixed"])

    def test_the_field_lies_within_the_images_and_its_margin_continues_them(self):
        cut = RandPatchPaird([10, 12], margin=3).set_random_state(seed=0)
        data = {name: value[:, :6, :9] for name, value in self.numbered(30, 30).items()}
        for _ in range(30):
            patch = cut(data)["fixed"][0]
            rows = patch[3:-3, 3:-3] - 2e6
            assert len(rows.unique()) == 4 * 6  # of the image, each voxel once
            # continued from the border: all that is seen occurs in the image
            assert torch.isin(patch.unique(), data["fixed"].unique()).all()

    def test_a_patch_larger_than_the_image(self):
        data = {name: value[:, :4, :5] for name, value in self.numbered(30, 30).items()}
        patch = RandPatchPaird([8, 8], margin=1)(data)["moving"][0]
        assert patch.shape == (8, 8)
        assert torch.equal(patch[2:6, 1:6], data["moving"][0])

    def test_rather_where_the_fixed_image_is(self):
        image = torch.zeros(1, 40, 40)
        image[:, :10, :10] = 1
        data = {"fixed": image, "moving": torch.rand(1, 40, 40)}
        for background, least, most in ((0.0, 1.0, 1.0), (1.0, 0.0, 0.3)):
            cut = RandPatchPaird([3, 3], background=background).set_random_state(seed=0)
            share = np.mean([float(cut(data)["fixed"][0, 1, 1]) for _ in range(60)])
            assert least <= share <= most

    @pytest.mark.parametrize("options", [{"margin": 4}, {"background": 1.5}])
    def test_bad_options(self, options):
        with pytest.raises(ValueError, match="the patch must be larger than its margins and background between"):
            RandPatchPaird([8, 9], **options)


class TestSlices:
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_one_slice_of_all_images_where_there_is_something(self, axis):
        """Every voxel holds the number of its slice, where the fixed image is not background."""
        shape = (7, 8, 9)
        numbers = torch.arange(1.0, shape[axis] + 1).view([-1 if k == axis else 1 for k in range(3)])
        fixed = numbers.expand(shape).clone()
        fixed.select(axis, 0).zero_()
        fixed.select(axis, 1)[1:] = 0  # a little of it only
        data = {"fixed": fixed[None], "moving": numbers.expand(shape)[None] + 100}
        cut, found = RandSlicePaird(axis, min_foreground=0.5).set_random_state(seed=0), set()
        for _ in range(60):
            result = cut(data)
            assert result["fixed"].shape == (1, *(size for k, size in enumerate(shape) if k != axis))
            (number,) = result["fixed"].unique().tolist()
            assert torch.equal(result["moving"], result["fixed"] + 100)
            found.add(number)
        assert found == set(range(3, shape[axis] + 1))

    def test_least_is_a_fraction(self):
        with pytest.raises(ValueError, match="min_foreground must be between 0 and 1, got 2"):
            RandSlicePaird(min_foreground=2)


class TestFieldOfView:
    def test_what_is_seen_stays_where_it_is_and_what_is_beyond_continues_or_is_dark(self):
        grid = grid_of((20, 24, 18), (1.0, 1.5, 0.8))
        image = MetaTensor(1 + grid.coordinates().float().sum(dim=-1)[None], affine=grid.affine)
        kinds = set()
        for seed in range(20):
            found = RandFieldOfViewd(max_crop=0.2, padding=3).set_random_state(seed)({"image": image})["image"]
            assert found.shape == (1, 26, 30, 24)
            place = Grid.from_image(found)
            torch.testing.assert_close(place.coordinates()[3:-3, 3:-3, 3:-3], grid.coordinates())
            inside = found.as_tensor()[:, 3:-3, 3:-3, 3:-3]
            same = inside == image.as_tensor()
            for axis in (1, 2, 3):
                line = found.as_tensor().movedim(axis, 0).flatten(1)
                for beyond, outermost in ((line[:3], line[3]), (line[-3:], line[-4])):
                    dark, continued = bool((beyond == image.min()).all()), bool((beyond == outermost).all())
                    assert dark or continued
                    kinds.add((dark, continued))
            assert same.float().mean() > 0.6**3
        assert kinds >= {(True, False), (False, True)}

    @pytest.mark.parametrize("options", [{"max_crop": 0.5}, {"max_crop": -0.1}, {"padding": -1}])
    def test_no_such_field_of_view(self, options):
        with pytest.raises(ValueError, match="max_crop must be"):
            RandFieldOfViewd(**options)


class TestMotion:
    """A known motion between two aligned images."""

    SHAPE, SPACING = (40, 36, 44), 1.2

    def moved(self, common: RandomWarp, seed: int, **largest: float) -> dict[str, Tensor]:
        affine = grid_of(self.SHAPE, self.SPACING).affine
        pair = {
            key: MetaTensor(image, affine=affine) for key, image in aligned(self.SHAPE, self.SPACING, valleys).items()
        }
        source = RandMotionPaird(self.SPACING, self.SHAPE, common, **largest)
        return dict(source.set_random_state(seed)(pair))

    def test_moving_image_is_where_the_motion_takes_it(self):
        grid = grid_of(self.SHAPE, self.SPACING)
        for seed in range(4):
            item = self.moved(Known(AffineTransform.identity(3)), seed, rotation=20.0, translation=3.0)
            truth = rigid_transform(item["motion"], grid.center)
            expected = valleys(truth.inverse()(grid.coordinates()))[None]
            middle = (slice(None), *[slice(12, -12)] * 3)  # the border continues
            torch.testing.assert_close(item["moving"][middle], expected[middle], atol=0.03, rtol=0)
            torch.testing.assert_close(item["fixed"], hills(grid.coordinates())[None], atol=1e-5, rtol=0)

    def test_onto_a_coarser_grid_with_one_interpolation(self):
        """As of an image that is moved first and resampled then, but for what that blurs."""
        fine = grid_of((80, 72, 88), 0.6)
        pair = {
            key: AverageVolumed(2.4)({"image": MetaTensor(contrast(fine.coordinates())[None], affine=fine.affine)})[
                "image"
            ]
            for key, contrast in (("fixed", hills), ("moving", valleys))
        }
        assert pair["fixed"].shape == (1, 20, 18, 22)
        source = RandMotionPaird(2.4, (16, 14, 18), Known(AffineTransform.identity(3)), 20.0, 3.0)
        item = source.set_random_state(0)(pair)
        grid = fine.resized([2.4] * 3, (16, 14, 18))
        truth = rigid_transform(item["motion"], grid.center)
        inside = (slice(None), *[slice(4, -4)] * 3)
        for key, expected in (
            ("fixed", hills(grid.coordinates())),
            ("moving", valleys(truth.inverse()(grid.coordinates()))),
        ):
            torch.testing.assert_close(item[key][inside], expected[None][inside], atol=0.06, rtol=0)

    def test_both_are_warped_alike(self):
        """The moving image through the motion is the fixed one's partner."""
        grid = grid_of(self.SHAPE, self.SPACING)
        common = Noted(3.0, **MODEST)
        item = self.moved(common, 3, rotation=10.0, translation=2.0)
        field = rigid_transform(item["motion"], grid.center).sample(grid).to_ddf()[None]
        back = warp(item["moving"][None], field)[0]
        expected = valleys(common.drawn(grid.coordinates()))[None]
        middle = (slice(None), *[slice(12, -12)] * 3)
        torch.testing.assert_close(back[middle], expected[middle], atol=0.1, rtol=0)

    def test_stays_within_its_bounds_and_uses_them(self):
        motions = torch.stack(
            [self.moved(RandomWarp(0.0, **MODEST), seed, rotation=9.0, translation=4.0)["motion"] for seed in range(40)]
        )
        assert motions[:, :3].norm(dim=1).max() < 9.3  # three small angles are nearly a vector
        assert motions[:, :3].norm(dim=1).max() > 6
        assert 3 < motions[:, 3:].abs().max() <= 4

    def test_amplitudes_are_drawn_from_none_to_all(self):
        """Angles and shifts are those of the whole motion, multiplied by one uniform factor."""
        affine = grid_of((6, 6, 6), 2.0).affine
        pair = {key: MetaTensor(torch.zeros(1, 6, 6, 6), affine=affine) for key in ("moving", "fixed")}
        none = RandomWarp(0.0, **dict.fromkeys(MODEST, 0.0))
        part, full = (RandMotionPaird(2.0, (6, 6, 6), none, min_amplitude=smallest) for smallest in (0.0, 1.0))
        factors = []
        for seed in range(200):
            some, whole = (each.set_random_state(seed)(pair)["motion"] for each in (part, full))
            factors.append(float(some @ whole / whole.square().sum()))
            torch.testing.assert_close(some, factors[-1] * whole, rtol=1e-4, atol=1e-5)
        assert_uniform(factors)

    def test_same_seed_same_motion(self):
        first, again, other = (self.moved(RandomWarp(2.0, **MODEST), seed) for seed in (5, 5, 6))
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert not torch.equal(first["motion"], other["motion"])
