# SPDX-License-Identifier: Apache-2.0
"""Resampling to the network grid and applying displacement fields, against SimpleITK and closed forms."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from regplugins.data import pair_records
from regplugins.registration.intensity import scale_percentiles
from regplugins.registration.network_grid import network_grid
from regplugins.spatial import DisplacementField, Grid, resample_to_grid
from regplugins.transforms import (
    ApplyDDFPaird,
    ApplyTransformPaird,
    ClipCTd,
    LoadPaird,
    ResamplePaird,
    ResampleToGridd,
    ScalePercentilesd,
)
from tests.itk_truth import GRIDS, translation

RAS = np.diag([1.0, 1.0, 1.0, 1.0])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def blobs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).random(shape), 2).astype(np.float32)


def image(array: np.ndarray, affine: np.ndarray = RAS) -> MetaTensor:
    return MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine))


def oblique(spacing: tuple[float, float, float], degrees: float, offset: tuple[float, float, float]) -> np.ndarray:
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[:3, :3] = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    affine[:3, :3] = affine[:3, :3] @ np.diag(spacing)
    affine[:3, 3] = offset
    return affine


def pair(fixed: MetaTensor, moving: MetaTensor, **more: object) -> dict[str, object]:
    return {"fixed": fixed, "moving": moving, "paths": {"fixed": "f", "moving": "m"}, "seconds": {}, **more}


def test_network_grid_has_axes_nearest_ras_and_the_same_center():
    grid = Grid((20, 30, 10), torch.from_numpy(oblique((1, 0.5, 3), 170, (5, 6, 7))))
    net = network_grid(grid, 1.0)
    assert torch.diagonal(net.affine)[:3].min() > 0.9
    torch.testing.assert_close(net.center, grid.center)
    torch.testing.assert_close(net.spacing, torch.ones(3, dtype=torch.float64))
    assert net.shape == (20, 15, 30)
    assert network_grid(grid, (2, 2, 2), (4, 5, 6)).shape == (4, 5, 6)


def test_resampled_and_scaled_pair_keeps_the_originals():
    fixed, moving = image(100 + 1000 * blobs((12, 14, 10))), image(3 * blobs((9, 11, 13), 1))
    resampled = ScalePercentilesd(["pair"])(ResamplePaird(1.0, "fov")(pair(fixed, moving)))
    assert resampled["pair"].shape == (2, 12, 14, 10)
    assert resampled["pair"].amin(dim=(1, 2, 3)).tolist() == [0, 0]
    assert resampled["pair"].amax(dim=(1, 2, 3)).tolist() == [1, 1]
    assert resampled["fixed"] is fixed
    assert resampled["moving"] is moving
    torch.testing.assert_close(resampled["initial"](Grid.from_image(fixed).center), Grid.from_image(moving).center)


def test_a_grid_of_given_size_about_the_fixed_images_center():
    fixed, moving = image(blobs((12, 14, 10))), image(blobs((9, 11, 13), 1))
    resampled = ResamplePaird(2.0, "fov", shape=(8, 4, 16))(pair(fixed, moving))
    assert resampled["pair"].shape == (2, 8, 4, 16)
    torch.testing.assert_close(resampled["grid"].center, Grid.from_image(fixed).center)
    torch.testing.assert_close(resampled["grid"].spacing, torch.full((3,), 2.0, dtype=torch.float64))


def test_nearly_empty_images_are_normalized_too():
    image = torch.zeros(1, 20, 20, 20)
    image[0, 3, 4, 5:9] = torch.tensor([1000.0, 2000, 3000, 4000])
    torch.testing.assert_close(scale_percentiles(image), image / 4000)
    assert not scale_percentiles(torch.full((1, 4, 4, 4), 7.0)).any()


def test_a_ct_is_clipped_to_a_window_and_an_mr_is_not() -> None:
    ct, mr = torch.linspace(-1024, 2000, 64).reshape(4, 4, 4), torch.linspace(0, 2000, 64).reshape(4, 4, 4)
    clipped = ClipCTd(["pair"], [-200, 300])({"pair": torch.stack([mr, ct])})["pair"]
    assert torch.equal(clipped[0], mr)
    np.testing.assert_array_equal(clipped[1], np.clip(ct.numpy(), -200, 300))
    with pytest.raises(ValueError, match="window must be two ascending numbers"):
        ClipCTd(["pair"], [300, -200])


def test_images_that_do_not_overlap_are_refused():
    far = np.diag([1.0, 1.0, 1.0, 1.0])
    far[0, 3] = 500
    with pytest.raises(ValueError, match=r"f and m do not overlap.*--init"):
        ResamplePaird(1.0, "none")(pair(image(blobs((8, 8, 8))), image(blobs((8, 8, 8)), far)))


@pytest.mark.parametrize(
    "fixed_affine", [RAS, LPS, oblique((1, 1.5, 2), 15, (4, -3, 8))], ids=["ras", "lps", "oblique"]
)
def test_shift_of_the_network_is_applied_in_millimeters(fixed_affine):
    """The network's field says 2 voxels (of 1 mm) toward anterior: moving points lie 2 mm more anterior, whatever the
    axes.
    """
    fixed, moving = (
        image(blobs((16, 14, 12)), fixed_affine),
        image(blobs((30, 30, 30), 1), oblique((1, 1, 1), 0, (-15, -15, -15))),
    )
    landmarks = Grid.from_image(fixed).center[None]
    resampled = ResamplePaird(1.0, "fov")(pair(fixed, moving, fixed_landmarks=landmarks))
    ddf = torch.zeros(1, 3, *resampled["pair"].shape[1:])
    axis = int(resampled["grid"].affine[1, :3].abs().argmax())
    direction = resampled["grid"].affine[:3, axis]
    ddf[:, axis] = 2
    result = ApplyDDFPaird()({**resampled, "pred": ddf})
    torch.testing.assert_close(result["warped_landmarks"], Grid.from_image(moving).center[None] + 2 * direction)
    torch.testing.assert_close(
        result["displacement"].vectors.double(),
        (2 * direction).view(3, 1, 1, 1).expand(3, *fixed.shape[1:]),
        atol=1e-5,
        rtol=0,
    )
    torch.testing.assert_close(result["inverse"].vectors, -result["field"].vectors, atol=1e-2, rtol=0)
    assert result["warped"].shape == fixed.shape


def test_a_known_transform_is_compared_with_where_it_started():
    """A shift by whole voxels, and half of it to start from."""
    moving = image(blobs((16, 8, 8)))
    loaded = pair(image(blobs((16, 8, 8), 1)), moving)
    for start, moved in ((None, 0), (translation(2.0, 0.0, 0.0), 2)):
        applied = ApplyTransformPaird(translation(4.0, 0.0, 0.0), start=start)(loaded)
        torch.testing.assert_close(applied["warped"][:, :12], moving.as_tensor()[:, 4:])
        torch.testing.assert_close(applied["before"][:, : 16 - moved], moving.as_tensor()[:, moved:])


def test_the_inverse_of_a_field_after_an_affine_holds_far_from_the_fixed_world():
    """Affine first, field last, as ANTs inverts a registration, with worlds 150 mm apart."""
    fixed = image(blobs((16, 14, 12)))
    moving = image(blobs((16, 14, 12), 1))
    moving.affine = translation(150.0, -80.0, 60.0).matrix @ moving.affine
    grid = Grid.from_image(moving)
    bend = DisplacementField(torch.sin(grid.coordinates() / 4).movedim(-1, 0), grid)
    transform = bend @ translation(150.0, -80.0, 60.0)
    applied = ApplyTransformPaird(transform)(pair(fixed, moving))
    points = Grid.from_image(fixed).coordinates()[4:-4, 4:-4, 4:-4].reshape(-1, 3)
    mapped = transform(points)
    torch.testing.assert_close(applied["initial"](applied["displacement"](points)), mapped, atol=1e-3, rtol=0)
    back = applied["inverse"](applied["initial"].inverse()(mapped))
    assert (back - points).norm(dim=1).max() < 0.1


def test_labels_go_through_once_and_keep_their_type():
    fixed, moving = image(blobs((10, 10, 10))), image(blobs((10, 10, 10), 1))
    label = MetaTensor(torch.from_numpy((blobs((10, 10, 10), 2) > 0.5).astype(np.int32))[None], affine=torch.eye(4))
    resampled = ResamplePaird(1.0, "none")(pair(fixed, moving, moving_label=label))
    ddf = torch.zeros(1, 3, 10, 10, 10)
    ddf[:, 0] = 1
    result = ApplyDDFPaird()({**resampled, "pred": ddf})
    assert result["warped_label"].dtype == torch.int32
    assert torch.equal(result["warped_label"][:, :-1], label.as_tensor()[:, 1:])
    assert torch.equal(result["before_label"], label.as_tensor())


def test_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match=r"label_interpolation.*cubic"):
        ApplyDDFPaird(label_interpolation="cubic")


@pytest.mark.parametrize("spacing", [0, -1.0, "wide", [1.0, 2.0], [1.0, 0.0, 1.0], True, [1.0, True, 1.0]])
def test_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing must be"):
        network_grid(GRIDS["oblique"], spacing)


@pytest.mark.parametrize("spacing", [1e-9, [2.0, 2.0, 1e-12]])
def test_a_grid_that_no_memory_holds_is_refused(spacing):
    message = (
        r"spacing .*: the network grid would have .* x .* x .* voxels and take at least .* GB of memory, this .* GB"
    )
    with pytest.raises(ValueError, match=message + "; give a larger --spacing"):
        network_grid(GRIDS["oblique"], spacing)
    with pytest.raises(ValueError, match=r"voxels and take at least .*; give a smaller shape"):
        network_grid(GRIDS["oblique"], 1.0, (10**5, 10**5, 10**5))


def test_a_grid_that_shows_nothing_of_an_image_is_refused():
    grid = Grid((20, 12, 3), torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0], dtype=torch.float64)))
    with pytest.raises(ValueError, match=r"spacing 1e9: .* 1 x 1 x 1 voxels, at least 4 along.*a smaller --spacing"):
        network_grid(grid, "1e9")
    with pytest.raises(ValueError, match="would have 3 x 2 x 2 voxels"):
        network_grid(grid, 8.0)
    # A thin slab remains one, and a shape that is given is what the network wants.
    assert network_grid(grid, 4.0).shape == (5, 3, 4)
    assert network_grid(grid, 40.0, (8, 8, 8)).shape == (8, 8, 8)


@pytest.mark.parametrize("fault", ["nan", "a word"])
def test_a_file_of_an_initial_transform_is_named_first(fault, tmp_path):
    path = tmp_path / "start.tfm"
    path.write_text(
        f"Transform: AffineTransform_double_3_3\nParameters: {fault} 0 0 0 1 0 0 0 1 0 0 0\nFixedParameters: 0 0 0\n"
    )
    with pytest.raises(ValueError, match=f"^{path}: "):
        ResamplePaird(1.0, str(path))(pair(image(blobs((8, 8, 8))), image(blobs((8, 8, 8), 1))))
    # Where the images are at fault they are.
    with pytest.raises(ValueError, match=r"^f and m: the fixed image is constant"):
        ResamplePaird(1.0, "center")(pair(image(np.ones((8, 8, 8), np.float32)), image(blobs((8, 8, 8), 1))))


def test_a_pair_unlike_the_trained_ones_gets_a_warning(caplog):
    meet = ResamplePaird(2.0, "fov", trained_extent=(12, 14, 10))
    alike = np.diag([-1.0, 1.0, 1.0, 1.0])
    meet(pair(image(blobs((12, 14, 10)), alike), image(blobs((12, 14, 10), 1))))
    assert not caplog.messages
    meet(pair(image(blobs((12, 30, 10)), alike), image(blobs((12, 14, 10), 1))))
    assert caplog.messages == ["f: 12 x 30 x 10 mm, but the network was trained on images of about 12 x 14 x 10 mm"]


@pytest.mark.parametrize(
    ("shape", "own", "expected"),
    [
        ((180, 220, 180), (1.0, 1.0, 1.0), [220 / 128] * 3),  # a head
        ((200, 256, 200), (1.0, 1.0, 1.0), [2.0] * 3),
        ((512, 512, 500), (0.8, 0.8, 1.0), [2.0] * 3),  # a trunk
        ((165, 160, 145), (0.141, 0.141, 0.141), [165 * 0.141 / 128] * 3),  # a mouse's head
        ((36, 50, 36), (1.0, 1.0, 1.0), [1.0] * 3),  # a crop: no finer than its own voxels
        ((96, 128, 60), (3.9, 3.9, 3.9), [3.9] * 3),  # a chest with large voxels: no finer either
        ((256, 216, 10), (1.4, 1.4, 10.0), [2.0] * 3),  # thick slices
        ((256, 216, 10), (1.4, 1.4, 1.4), [2.0, 2.0, 2.0 / 5]),  # thick slices, whose header says else
        ((256, 216), (1.0, 1.0), [1.0] * 2),  # in 2-D pixels cost little
        ((4096, 2000), (5.0, 5.0), [20.0] * 2),  # a photograph, of some unit
    ],
)
def test_automatic_spacing_follows_the_size_of_the_image(shape, own, expected):
    grid = network_grid(Grid(shape, torch.diag(torch.tensor([*own, 1.0], dtype=torch.float64))), None)
    assert grid.spacing.tolist() == pytest.approx(expected)


def test_thin_slices_get_a_warning():
    flat = image(blobs((90, 80, 10)), np.diag([1.4, 1.4, 1.0, 1.0]))
    (message,) = ResamplePaird(None)(pair(flat, flat))["warnings"]
    assert message.startswith("f: 10 slices of 1 mm")
    thick = image(blobs((90, 80, 10)), np.diag([1.4, 1.4, 8.0, 1.0]))
    assert "warnings" not in ResamplePaird(None)(pair(thick, thick))


def test_a_grid_much_coarser_than_the_image_gets_a_warning():
    fine = image(blobs((90, 90, 90)), np.diag([0.2, 0.2, 0.2, 1.0]))
    (message,) = ResamplePaird(spacing=2.0)(pair(fine, fine))["warnings"]
    assert "9 x 9 x 9 voxels of 2 x 2 x 2 mm" in message
    assert message.startswith("f: ")
    for harmless in ({"spacing": 0.4}, {"spacing": None}, {"spacing": 2.0, "shape": (9, 9, 9)}):
        assert "warnings" not in ResamplePaird(**harmless)(pair(fine, fine))


class TestTrainingGrid:
    def test_same_as_a_pair_that_meets_by_field_of_view(self):
        shapes = ((13, 15, 11), (12, 16, 13))
        images = [image(1000 * blobs(shape, seed)) for seed, shape in enumerate(shapes)]
        alone = [ResampleToGridd(1.0, (10, 12, 10))({"image": one})["image"] for one in images]
        resampled = ResamplePaird(1.0, "fov")(pair(*images))
        # The middle of the pair's grid, odd sizes apart; normalized over other voxels, so alike but for scale.
        grid = resampled["grid"].resized([1.0] * 3, (10, 12, 10))
        fixed = resample_to_grid(images[0], grid).flatten()
        assert torch.corrcoef(torch.stack([fixed, alone[0].flatten()]))[0, 1] > 0.95
        moving = resample_to_grid(images[1], grid, resampled["initial"]).flatten()
        assert torch.corrcoef(torch.stack([moving, alone[1].flatten()]))[0, 1] > 0.95

    def test_mask_says_where_the_image_is(self):
        record = ResampleToGridd(1.0, (8, 10, 12))({"image": image(blobs((6, 20, 12)))})
        assert record["mask"].sum() == 6 * 10 * 12
        assert record["mask"][0, 1:7].min() == 1

    def test_a_structure_outside_the_grid_is_an_error(self):
        label = np.zeros((20, 20, 20), np.int32)
        label[0, 0, 0] = 2
        label[10, 10, 10] = 1
        with pytest.raises(ValueError, match="1 labeled voxels lie outside"):
            ResampleToGridd(1.0, (8, 8, 8))({"image": image(blobs((20, 20, 20))), "label": image(label)})


class TestLoad:
    @pytest.fixture
    def files(self, tmp_path):
        paths = {}
        for seed, (key, array) in enumerate(
            {
                "fixed": blobs((8, 9, 7)),
                "moving": blobs((7, 8, 9), 1),
                "fixed_label": np.ones((8, 9, 7), np.uint8),
            }.items()
        ):
            paths[key] = str(tmp_path / f"{seed}_{key}.nii.gz")
            nib.save(nib.Nifti1Image(array, RAS), paths[key])
        return paths

    def test_values_and_paths(self, files):
        loaded = LoadPaird()(files)
        np.testing.assert_array_equal(loaded["fixed"][0].numpy(), nib.load(files["fixed"]).get_fdata(dtype=np.float32))
        assert loaded["fixed_label"].dtype == torch.int32
        assert loaded["fixed_label"].meta["stored_dtype"] == np.uint8
        assert loaded["paths"] == files

    def test_label_of_another_shape(self, files, tmp_path):
        nib.save(nib.Nifti1Image(np.ones((8, 9, 8), np.uint8), RAS), files["fixed_label"])
        with pytest.raises(ValueError, match=r"fixed_label\.nii\.gz: shape \(8, 9, 8\) does not match \(8, 9, 7\)"):
            LoadPaird()(files)

    def test_label_of_another_place(self, files):
        nib.save(nib.Nifti1Image(np.ones((8, 9, 7), np.uint8), oblique((1, 1, 1), 0, (5, 0, 0))), files["fixed_label"])
        with pytest.raises(ValueError, match=r"fixed_label\.nii\.gz: lies elsewhere"):
            LoadPaird()(files)

    def test_dimensions_that_differ(self, files):
        nib.save(nib.Nifti1Image(blobs((8, 9)), np.diag([1.0, 1, 1, 1])), files["moving"])
        with pytest.raises(ValueError, match=r"fixed\.nii\.gz is 3-D.*moving\.nii\.gz is 2-D"):
            LoadPaird()(files)

    def test_landmarks_in_either_space(self, files, tmp_path):
        csv = tmp_path / "points.csv"
        csv.write_text("x,y,z\n1,0,3\n")
        read = {
            space: LoadPaird(space)(files | {"fixed_landmarks": str(csv)})["fixed_landmarks"]
            for space in ("RAS", "LPS")
        }
        assert read["RAS"].tolist() == [[1, 0, 3]]
        assert read["LPS"].tolist() == [[-1, 0, 3]]
        other = tmp_path / "other.csv"
        other.write_text("x,y,z\n1,2,3\n4,5,6\n")
        with pytest.raises(ValueError, match="1 and 2 points"):
            LoadPaird()(files | {"fixed_landmarks": str(csv), "moving_landmarks": str(other)})

    def test_truth_of_another_dimension(self, files, tmp_path):
        sitk.WriteTransform(sitk.AffineTransform(2), str(tmp_path / "flat.tfm"))
        with pytest.raises(ValueError, match=r"flat\.tfm: 2-D, the images are 3-D"):
            LoadPaird()(files | {"truth": str(tmp_path / "flat.tfm")})

    def test_truth_of_a_datalist_is_relative_to_its_folder(self, files, tmp_path):
        sitk.WriteTransform(sitk.TranslationTransform(3, (0.0, 0.0, 4.0)), str(tmp_path / "shift.tfm"))
        pair = {key: Path(files[key]).name for key in ("fixed", "moving")} | {"truth": "shift.tfm"}
        (tmp_path / "pairs.json").write_text(json.dumps([pair]))
        (record,) = pair_records({}, tmp_path / "pairs.json", tmp_path)
        point = torch.tensor([[1.0, 2.0, 3.0]])
        assert LoadPaird()(record)["truth"](point).tolist() == [[1.0, 2.0, 7.0]]
        (tmp_path / "shift.tfm").unlink()
        with pytest.raises(FileNotFoundError, match=r"shift\.tfm: no such file"):
            LoadPaird()(record)

    def test_truth_is_a_transform_of_the_world(self, files, tmp_path):
        """ITK maps LPS points; the signs of x and y differ from RAS."""
        turn = [[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]
        matrix = sitk.AffineTransform(np.ravel(turn).tolist(), (2.0, -3.0, 5.0))
        sitk.WriteTransform(matrix, str(tmp_path / "truth.tfm"))
        vectors = np.tile([2.0, -3.0, 5.0], (7, 9, 8, 1))
        sitk.WriteImage(sitk.GetImageFromArray(vectors, isVector=True), str(tmp_path / "truth.nii.gz"))
        points = torch.tensor([[-1.0, -2.0, 3.0], [-4.0, -5.0, 2.0]], dtype=torch.float64)
        signs = torch.tensor([-1.0, -1, 1], dtype=torch.float64)
        for name, linear in (("truth.tfm", np.array(turn)), ("truth.nii.gz", np.eye(3))):
            paths = files | {"truth": str(tmp_path / name)}
            loaded = LoadPaird()(paths)
            expected = ((points * signs).numpy() @ linear.T + [2, -3, 5]) * signs.numpy()
            np.testing.assert_allclose(loaded["truth"](points), expected, atol=1e-5)
            assert loaded["paths"] == paths
