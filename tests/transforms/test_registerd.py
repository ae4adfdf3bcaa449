# SPDX-License-Identifier: Apache-2.0
"""Registration in a MONAI pipeline, on images with a known transform."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, CropForegroundd, EnsureTyped, Invertd, LoadImage, SaveImage
from scipy.ndimage import gaussian_filter

from regplugins.losses import LocalNCCLoss, MultiResolutionLoss, NCCLoss, PairLoss, SquaredGradientLoss
from regplugins.registration import AffineRegistration, ConvexInitializer, DeformableRegistration, PresetRegistration
from regplugins.spatial import AffineTransform, DisplacementField, Grid, SpatialTransform, resample, resample_labels
from regplugins.transforms import ApplyRegistrationd, Registerd
from tests.itk_truth import write_image

OBJECTIVE = MultiResolutionLoss(LocalNCCLoss(5), SquaredGradientLoss(), 0.05)
OPTIMIZER = DeformableRegistration(OBJECTIVE, [(4.0, 40), (2.0, 40)], spacing=2.0)


def grid(shape: tuple[int, ...], spacing: float, degrees: float) -> Grid:
    """About the world's origin, turned in the plane of its first two axes."""
    n, angle = len(shape), np.deg2rad(degrees)
    affine = np.eye(n + 1)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:n, :n] *= spacing
    affine[:n, n] = -affine[:n, :n] @ (np.array(shape) - 1) / 2
    return Grid(shape, torch.from_numpy(affine))


def bend(n: int) -> DisplacementField:
    """Up to 3 mm, smooth, on a grid of its own."""
    own = grid((25,) * n, 5.0, 0.0)
    x = own.coordinates()
    vectors = 3 * torch.stack([torch.cos(x[..., (k + 1) % n] / 18) for k in range(n)])
    return DisplacementField(vectors, own)


def image_pair(n: int, truth: SpatialTransform) -> dict[str, Any]:
    """A moving image and label, and the fixed image that the truth makes of them on another grid."""
    shape = {2: (70, 64), 3: (40, 38, 36)}[n]
    here, there = grid(shape, 2.0, 10.0), grid(tuple(size - 6 for size in shape), 2.1, -5.0)
    noise = np.random.default_rng(0).random(shape)
    image = torch.from_numpy(gaussian_filter(noise, 1.5) + 2 * gaussian_filter(noise, 3))[None].float()
    label = (image > image.median()).to(torch.int16) + 1
    data = {"mr": MetaTensor(image, affine=here.affine), "organs": MetaTensor(label, affine=here.affine)}
    fixed = 5 - 3 * resample(image, here, there, truth, fill=None)
    return data | {"ct": MetaTensor(fixed, affine=there.affine), "truth": truth}


def inner_points(grid: Grid) -> torch.Tensor:
    """The middle of a grid, mm."""
    points = grid.coordinates()
    for axis, size in enumerate(grid.shape):
        points = points.narrow(axis, size // 4, size // 2)
    return points.reshape(-1, grid.ndim)


@pytest.fixture(scope="module", params=[2, 3])
def registered(request: pytest.FixtureRequest) -> dict[str, Any]:
    data = image_pair(request.param, bend(request.param))
    before = {key: data[key].clone() for key in ("ct", "mr", "organs")}
    result = Registerd("ct", "mr", OPTIMIZER, init="none", warped="mr_on_ct")(data)
    assert all(torch.equal(data[key], image) for key, image in before.items())
    assert "transform" not in data
    return result


def test_the_transform_is_the_true_one(registered):
    points = inner_points(Grid.from_image(registered["ct"]))
    true = registered["truth"](points)
    error = (registered["transform"](points) - true).norm(dim=1).mean()
    assert error < 0.6 < (points - true).norm(dim=1).mean()


def test_the_warped_image_is_the_moving_one_on_the_fixed_grid(registered):
    fixed, moving, warped = (registered[key] for key in ("ct", "mr", "mr_on_ct"))
    assert warped.shape == fixed.shape
    torch.testing.assert_close(warped.affine, fixed.affine)
    middle = tuple(slice(size // 4, -size // 4) for size in fixed.shape[1:])
    correlation = np.corrcoef(warped[0][middle].numpy().ravel(), fixed[0][middle].numpy().ravel())[0, 1]
    assert correlation < -0.98
    assert not moving.applied_operations


def test_settings_are_recorded():
    objective = PairLoss(_Unlike(), SquaredGradientLoss(), 0.25)
    start = ConvexInitializer(reach=8.0, image_spacing=4.0, spacing=2.0)
    optimizer = DeformableRegistration(objective, [(8.0, 3)], 2.0, initializer=start)
    data = image_pair(2, bend(2))
    data["seen"] = MetaTensor(torch.ones(data["ct"].shape), affine=data["ct"].affine)
    done = Registerd("ct", "mr", optimizer, init="none", warped="mr_on_ct", masks=("seen", None))(data)["mr_on_ct"]
    record = done.applied_operations[-1]
    assert record["class"] == "Registerd"
    info = record["extra_info"]
    assert (info["init"], info["spacing"], info["fixed_mask"], info["moving_mask"]) == ("none", 2.0, "seen", "None")
    for part in ("_Unlike", "regularization_weight=0.25", "levels=[(8.0, 3)]", "reach=8.0, image_spacing=4.0"):
        assert part in info["deformable_registration"]


def test_choices_are_recorded_and_naming_them_gives_the_same():
    data = image_pair(2, bend(2))
    done = Registerd("ct", "mr", PresetRegistration(spacing=2.0), warped="mr_on_ct")(data)["mr_on_ct"]
    info = done.applied_operations[-1]["extra_info"]
    assert (info["preset"], info["initializer"]) == ("multimodal", "None")  # contrasts that no line relates
    named = Registerd("ct", "mr", PresetRegistration(info["preset"], 2.0), init=info["init"], warped="mr_on_ct")(data)
    assert torch.equal(named["mr_on_ct"].as_tensor(), done.as_tensor())
    one = Registerd("ct", "mr", PresetRegistration("same_modality", 2.0), warped="mr_on_ct")(data)["mr_on_ct"]
    assert one.applied_operations[-1]["extra_info"]["initializer"].startswith(
        ("AffineInitializer", "ConvexInitializer")
    )


def test_linear_before_the_deformation():
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(0.15), -np.sin(0.15)], [np.sin(0.15), np.cos(0.15)]]
    turn[:2, 2] = 4, -3
    motion = AffineTransform(torch.from_numpy(turn))
    data = image_pair(2, motion @ bend(2))
    linear = AffineRegistration(_Unlike(), "rigid", [(4.0, 60)], 2.0)
    for optimizer, largest in ((None, 4.0), (OPTIMIZER, 0.8)):
        transform = Registerd("ct", "mr", optimizer, linear, init="none")(data)["transform"]
        points = inner_points(Grid.from_image(data["ct"]))
        assert (transform(points) - data["truth"](points)).norm(dim=1).mean() < largest
        assert isinstance(transform, AffineTransform) == (optimizer is None)


class _Unlike(NCCLoss):
    """Dissimilarity of images of which one is the negative of the other."""

    def forward(self, pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(-pred, target, mask)


def test_inverse_resamples_back(registered):
    """Something made of the warped image, in its place: the true label on the fixed grid."""
    apply = ApplyRegistrationd(["organs", "landmarks"], "ct", ["nearest", "points"])
    points = inner_points(Grid.from_image(registered["mr"]))
    there = apply(registered | {"landmarks": points})
    assert there["organs"].dtype == torch.int16
    assert set(there["organs"].unique().tolist()) <= {0, 1, 2}
    label, moving_grid = registered["organs"], Grid.from_image(registered["organs"])
    expected = resample_labels(label.as_tensor(), moving_grid, Grid.from_image(there["ct"]), there["transform"])
    assert torch.equal(there["organs"].as_tensor(), expected)
    torch.testing.assert_close(there["transform"](there["landmarks"]), points, atol=0.05, rtol=0)
    back = apply.inverse(there)
    assert back["organs"].shape == label.shape
    torch.testing.assert_close(back["organs"].affine, label.affine)
    middle = (0, *[slice(size // 4, -size // 4) for size in label.shape[1:]])
    assert (back["organs"][middle] == label[middle]).float().mean() > 0.9
    torch.testing.assert_close(back["landmarks"], points, atol=0.05, rtol=0)
    assert not back["organs"].applied_operations


def test_images_are_saved_where_they_are(registered, tmp_path):
    """By MONAI, which resamples on demand to the grid of the file that an image was read from."""
    data = {}
    for key in ("ct", "mr"):
        image = registered[key]
        write_image(image[0].as_tensor(), Grid.from_image(image), tmp_path / f"{key}.nii.gz")
        data[key] = LoadImage(ensure_channel_first=True)(tmp_path / f"{key}.nii.gz")
    optimizer = DeformableRegistration(OBJECTIVE, [(4.0, 2)], spacing=2.0)
    register, apply = Registerd("ct", "mr", optimizer, init="none", warped="warped"), ApplyRegistrationd("mr", "ct")
    there = register(data)
    images = {"ct": (there["warped"], apply(there)["mr"])}
    images["mr"] = (register.inverse(there)["warped"], apply.inverse(apply(there))["mr"])
    own = MetaTensor(data["mr"].as_tensor(), affine=data["mr"].affine)  # of no file
    assert not apply.inverse(apply(there | {"mr": own}))["mr"].meta.keys() & {"original_affine", "spatial_shape"}
    for place, warped in images.items():
        for k, image in enumerate(warped):
            options = {"separate_folder": False, "print_log": False, "resample": True}
            SaveImage(tmp_path, output_postfix=f"{place}{k}", **options)(image)
            saved = LoadImage(ensure_channel_first=True)(tmp_path / f"mr_{place}{k}.nii.gz")
            assert saved.shape == data[place].shape
            torch.testing.assert_close(saved.affine, data[place].affine, atol=1e-4, rtol=0)
            torch.testing.assert_close(saved.as_tensor(), image.as_tensor(), atol=1e-4, rtol=0)


def test_a_pipeline_through_a_loader_is_undone(registered):
    """A user's pipeline: register, crop, predict on the warped image, and invert the prediction."""
    data = {key: registered[key] for key in ("ct", "mr")}
    optimizer = DeformableRegistration(OBJECTIVE, [(4.0, 2)], spacing=2.0)
    pipeline = Compose(
        [
            Registerd("ct", "mr", optimizer, init="none", warped="image"),
            CropForegroundd("image", "image", allow_smaller=True),
            EnsureTyped("image"),
        ]
    )
    keep = Compose([pipeline, lambda item: {"image": item["image"]}])
    (batch,) = DataLoader(Dataset([data], keep), batch_size=1)
    batch["pred"] = (batch["image"] > batch["image"].mean()).float()
    undo = Invertd("pred", pipeline, orig_keys="image", nearest_interp=True, to_tensor=True)
    restored = undo(decollate_batch(batch)[0])["pred"]
    assert restored.shape == data["mr"].shape
    torch.testing.assert_close(restored.affine, data["mr"].affine)
    assert set(restored.unique().tolist()) == {0.0, 1.0}
    middle = (0, *[slice(size // 4, -size // 4) for size in restored.shape[1:]])
    threshold = float(batch["image"].mean())
    agree = (restored[middle] > 0) == (data["mr"][middle] > threshold)
    assert agree.float().mean() > 0.93


def test_inverse_of_further_images():
    """As the method's page has it: of a pipeline with both transforms, the label alone."""
    data = image_pair(2, bend(2))
    label = MetaTensor((data["mr"] > 0.5).to(torch.int16), affine=data["mr"].affine)
    optimizer = DeformableRegistration(OBJECTIVE, [(4.0, 2)], spacing=2.0)
    pipeline = Compose(
        [
            Registerd("ct", "mr", optimizer, init="none", warped="mr_on_ct"),
            ApplyRegistrationd("mr_label", "ct", mode="nearest"),
        ]
    )
    there = pipeline(data | {"mr_label": label})
    done = there["mr_on_ct"].applied_operations[-1]["extra_info"]
    assert (
        done["init"] == "none"
        and done["affine_registration"] == "None"
        and done["deformable_registration"] == repr(optimizer)
    )
    there["pred"] = there["mr_label"].clone()
    restored = Invertd("pred", pipeline, orig_keys="mr_label", nearest_interp=True)(there)["pred"]
    assert restored.shape == label.shape
    middle = (0, *[slice(size // 4, -size // 4) for size in label.shape[1:]])
    assert (restored[middle] == label[middle]).float().mean() > 0.9


def test_any_chain_of_transforms_is_undone():
    """Affine, field, affine; and a field alone."""
    grid = Grid((24, 20), torch.eye(3, dtype=torch.float64))
    field = DisplacementField(torch.sin(grid.coordinates() / 5).movedim(-1, 0), grid)
    turn = AffineTransform(torch.tensor([[0.98, -0.2, 3.0], [0.2, 0.98, -2.0], [0, 0, 1]], dtype=torch.float64))
    image = MetaTensor(torch.linspace(0, 1, 24)[:, None].expand(24, 20)[None].clone(), affine=torch.eye(3))
    for way in (turn @ field @ turn.inverse(), field):
        apply = ApplyRegistrationd("image", "fixed")
        there = apply({"image": image, "fixed": image, "transform": way})
        restored = apply.inverse(there)["image"]
        torch.testing.assert_close(restored[0, 8:-8, 7:-7], image[0, 8:-8, 7:-7], atol=0.02, rtol=0)


def test_masks_count():
    """A patch of other values, hidden: what comes out is as close as without it."""
    data = image_pair(2, bend(2))
    hidden = torch.ones(data["ct"].shape)
    hidden[:, 24:40, 20:36] = 0
    spoilt = data | {"ct": MetaTensor(torch.where(hidden > 0, data["ct"].as_tensor(), 9.0), affine=data["ct"].affine)}
    spoilt["mask"] = MetaTensor(hidden, affine=data["ct"].affine)
    points = inner_points(Grid.from_image(data["ct"]))

    def error(**masks: tuple[str, None]) -> float:
        transform = Registerd("ct", "mr", OPTIMIZER, init="none", **masks)(spoilt)["transform"]
        return float((transform(points) - data["truth"](points)).norm(dim=1).mean())

    assert error(masks=("mask", None)) < 0.8 * error()


def test_a_rigid_transform_of_a_thin_stack_is_rigid():
    """The automatic grid is finer along the slices' normal than in their plane."""
    shape = (96, 90, 12)
    stack = grid(shape, 1.0, 0.0)
    noise = gaussian_filter(np.random.default_rng(0).random((96, 90, 24)), 3)
    angle = np.deg2rad(5.0)
    matrix = np.eye(4)
    matrix[::2, ::2][:2, :2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    volume = grid((96, 90, 24), 1.0, 0.0)
    seen = [
        resample(torch.from_numpy(noise)[None], volume, stack, AffineTransform(torch.from_numpy(way)), fill=None)
        for way in (np.eye(4), matrix)
    ]
    images = dict(zip(("moving", "fixed"), (MetaTensor(one, affine=stack.affine) for one in seen), strict=True))
    optimizer = AffineRegistration(LocalNCCLoss(5), "rigid", [(4.0, 60), (2.0, 60)], spacing=None)
    found = Registerd("fixed", "moving", None, optimizer, init="none")(images)["transform"].matrix[:3, :3]
    torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32])
def test_unsigned_images_are_applied(dtype):
    image = MetaTensor(torch.arange(30).view(1, 6, 5).to(dtype), affine=torch.eye(3))
    shift = torch.eye(3, dtype=torch.float64)
    shift[0, 2] = 1.0
    data = {"image": image, "fixed": image, "transform": AffineTransform(shift)}
    values = ApplyRegistrationd("image", "fixed")(data)["image"].as_tensor()
    torch.testing.assert_close(values[0, :-1], image.as_tensor()[0, 1:].float())


def test_label_maps_with_a_low_minimum_are_filled_with_zero():
    label = MetaTensor(torch.tensor([[[-1000, 1], [2, 3]]], dtype=torch.int32), affine=torch.eye(3))
    shift = torch.eye(3, dtype=torch.float64)
    shift[0, 2] = 1.0
    data = {"label": label, "fixed": label, "transform": AffineTransform(shift)}
    assert ApplyRegistrationd("label", "fixed", "nearest")(data)["label"].tolist() == [[[2, 3], [0, 0]]]


def test_missing_transform_is_an_error():
    with pytest.raises(KeyError, match=r"no transform 'transform' among .*: add it with Registerd"):
        ApplyRegistrationd("mr", "ct")(image_pair(2, bend(2)))


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({}, {"moving": "pet"}, KeyError, "no image 'pet' among"),
        ({"mr": torch.ones(1, 5, 5)}, {}, ValueError, r"'mr': expected a MetaTensor \(C, \*spatial\).*got a Tensor"),
        ({"mr": MetaTensor(torch.ones(2, 5, 5))}, {}, ValueError, r"'mr': expected one channel.*got 2"),
        (
            {},
            {"affine": AffineRegistration(_Unlike(), spacing=3.0)},
            ValueError,
            r"the optimizers of Registerd must have the same spacing, got \[2.0, 3.0\]",
        ),
        ({"m": MetaTensor(torch.ones(1, 5, 5))}, {"masks": (None, "m")}, ValueError, "'m' is not on the grid of 'mr'"),
        ({"ct": MetaTensor(torch.full((1, 9, 9), torch.nan))}, {}, ValueError, "'ct' has values that are not finite"),
        (
            {},
            {"deformable": _Unlike()},
            TypeError,
            r"deformable must be a DeformableRegistration or PresetRegistration, got _Unlike\(\)",
        ),
        ({}, {"deformable": "best"}, ValueError, "preset must be one of .*'auto'.*, got 'best'"),
        ({}, {"affine": OPTIMIZER}, TypeError, "affine must be a AffineRegistration, got DeformableRegistration"),
        ({}, {"init": "best"}, ValueError, "best"),
    ],
)
def test_bad_input_is_named(change, options, error, message):
    data = image_pair(2, bend(2)) | change
    with pytest.raises(error, match=message):
        Registerd(**{"fixed": "ct", "moving": "mr", "deformable": OPTIMIZER, "init": "none", **options})(data)


def test_an_empty_mask_is_named():
    data = image_pair(2, bend(2))
    data["nothing"] = MetaTensor(torch.zeros(data["ct"].shape), affine=data["ct"].affine)
    with pytest.raises(ValueError, match="'nothing' is zero on the whole network grid"):
        Registerd("ct", "mr", OPTIMIZER, init="none", masks=("nothing", None))(data)


def test_integers_are_images_too():
    data = image_pair(2, bend(2))
    whole = {key: (1000 * data[key]).round() for key in ("ct", "mr")}
    optimizer = DeformableRegistration(OBJECTIVE, [(8.0, 5)], spacing=4.0)
    points = inner_points(Grid.from_image(data["ct"]))
    of_floats, of_integers = (
        Registerd("ct", "mr", optimizer, init="none")({key: image.to(dtype) for key, image in whole.items()})[
            "transform"
        ](points)
        for dtype in (torch.float32, torch.int16)
    )
    assert torch.equal(of_floats, of_integers)


def test_one_spacing_written_in_two_ways():
    optimizer = DeformableRegistration(OBJECTIVE, [(4.0, 2)], spacing=[2.0, 3.0])
    linear = AffineRegistration(_Unlike(), spacing=(2.0, 3.0))
    assert Registerd("ct", "mr", optimizer, linear, init="none").spacing == [2.0, 3.0]


def test_two_keys_are_enough():
    """Its negative is another modality. The world of the moving image lies 30 mm away."""
    data = image_pair(3, bend(3))
    shift = torch.eye(4, dtype=torch.float64)
    shift[0, 3] = 30
    away = AffineTransform(shift)
    data["mr"].affine = away.matrix @ data["mr"].affine
    points = inner_points(Grid.from_image(data["ct"]))
    error = (Registerd("ct", "mr")(data)["transform"](points) - away(data["truth"](points))).norm(dim=1).mean()
    assert error < 0.8 < (points - data["truth"](points)).norm(dim=1).mean()
