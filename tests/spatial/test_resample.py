# SPDX-License-Identifier: Apache-2.0
"""Resampling against SimpleITK, through the transform files that the package writes."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regplugins.io import write_transform
from regplugins.spatial import (
    AffineTransform,
    DisplacementField,
    Grid,
    downsample,
    downsample_field,
    identity_grid,
    outside_value,
    resample,
    resample_labels,
    resample_to_grid,
)
from tests.itk_truth import GRIDS, array_of, random_affine, random_field, read_results, sitk_image, write_image

PAIRS = [
    ("ras", "ras"),
    ("ras", "las"),
    ("las", "lps"),
    ("lps", "oblique"),
    ("oblique", "permuted"),
    ("left-handed oblique", "anisotropic"),
    ("anisotropic", "ras"),
    ("oblique", "small"),
    ("small", "oblique"),
    ("2-D", "2-D oblique"),
    ("2-D oblique", "2-D"),
]
pairs = pytest.mark.parametrize(("fixed", "moving"), PAIRS)
SITK_MODES = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}


@pytest.mark.parametrize("mode", SITK_MODES)
@pairs
def test_equals_itk_through_the_written_files(fixed: str, moving: str, mode: str, tmp_path: Path) -> None:
    target, source = GRIDS[fixed], GRIDS[moving]
    image = torch.rand(1, *source.shape)
    affine, field = AffineTransform(random_affine(target.ndim)), random_field(target)
    write_image(torch.zeros(target.shape), target, tmp_path / "fixed.nii.gz")
    write_image(image[0], source, tmp_path / "moving.nii.gz")
    write_transform(affine, tmp_path / "transform_0GenericAffine.mat")
    write_transform(field, tmp_path / "transform_1Warp.nii.gz")
    # antsApplyTransforms -t transform_1Warp.nii.gz is nearest to the fixed image: x_moving = Affine(x + u(x)).
    onto, what = sitk.ReadImage(tmp_path / "fixed.nii.gz"), sitk.ReadImage(tmp_path / "moving.nii.gz")
    theirs = array_of(sitk.Resample(what, onto, read_results(tmp_path), SITK_MODES[mode], -3.0))
    ours = resample(image, source, target, affine @ field, mode, fill=-3.0)[0].numpy()
    outside = ours == -3
    assert 0 < outside.sum() < 0.9 * outside.size
    np.testing.assert_array_equal(outside, theirs == -3)
    if mode == "linear":
        np.testing.assert_allclose(ours, theirs, atol=5e-5)
    else:
        assert (ours != theirs).mean() < 1e-3  # the file's float32 affine may tip a voxel over


@pytest.mark.parametrize(
    ("values", "outside"),
    [
        ((-1000.0, 1500.0), -1024.0),
        ((-3024.0, 1500.0), -1024.0),
        ((0.0, 900.0), 0.0),
        ((-3.0, 3.0), 0.0),
        ((-4096.0, 4095.0), 0.0),
    ],
    ids=["CT", "CT with padding", "MR", "standardized", "phase"],
)
def test_air_is_around_a_ct(values: tuple[float, float], outside: float) -> None:
    image = torch.tensor(values).repeat(4, 1)
    assert outside_value(image) == outside
    assert outside_value(image, 7.0) == 7.0


@pairs
def test_linear_labels_equal_itk(fixed: str, moving: str) -> None:
    target, source = GRIDS[fixed], GRIDS[moving]
    # Blocks of two voxels, so that there are insides as well as borders.
    label = torch.randint(0, 6, [(size + 1) // 2 for size in source.shape], dtype=torch.uint8)
    for axis, size in enumerate(source.shape):
        label = label.repeat_interleave(2, dim=axis).narrow(axis, 0, size)
    transform = AffineTransform(random_affine(target.ndim))
    signs = torch.diag(torch.tensor([-1.0, -1, 1, 1] if target.ndim == 3 else [-1.0, -1, 1], dtype=torch.float64))
    lps = (signs @ transform.matrix @ signs).numpy()
    itk_affine = sitk.AffineTransform(target.ndim)
    itk_affine.SetMatrix(lps[:-1, :-1].ravel().tolist())
    itk_affine.SetTranslation(lps[:-1, -1].tolist())
    reference = sitk_image(torch.zeros(target.shape), target)
    theirs = array_of(sitk.Resample(sitk_image(label, source), reference, itk_affine, sitk.sitkLabelLinear, 0))
    ours = resample_labels(label[None], source, target, transform, mode="linear")
    assert ours.dtype == torch.uint8
    assert (ours[0].numpy() != theirs).mean() < 1e-3
    assert (resample_labels(label[None], source, target, transform) != ours).float().mean() > 0.005


def test_equal_weights_go_to_the_smaller_label() -> None:
    source = Grid((2, 1), torch.eye(3))
    target = Grid((1, 1), torch.tensor([[1.0, 0, 0.5], [0, 1, 0], [0, 0, 1]]))
    for label in ([5, 3], [3, 5]):
        assert resample_labels(torch.tensor([label]).view(1, 2, 1), source, target, mode="linear").item() == 3


def test_three_against_two_is_won_by_the_sum_of_weights() -> None:
    # Each 9 alone outweighs each 4, together the four 4s outweigh the two 9s: 0.4 + 0.2 against 0.3 + 0.1.
    source = Grid((2, 2), torch.eye(3))
    label = torch.tensor([[9, 4], [4, 4]])[None]
    target = Grid((1, 1), torch.tensor([[1.0, 0, 0.35], [0, 1, 0.35], [0, 0, 1]]))
    assert resample_labels(label, source, target).item() == 9  # nearest; its weight is 0.65 * 0.65 = 0.42
    assert resample_labels(label, source, target, mode="linear").item() == 4


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_identity_copies(mode: str) -> None:
    grid, image = GRIDS["oblique"], torch.rand(2, *GRIDS["oblique"].shape)
    out = resample(image, grid, grid, mode=mode)
    assert torch.equal(out, image)
    assert out.data_ptr() != image.data_ptr()


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.float16],
)
def test_types(dtype: torch.dtype) -> None:
    source, target = GRIDS["ras"], GRIDS["small"]
    image = torch.randint(0, 2, (1, *source.shape)).to(dtype)
    expected = resample(image.double(), source, target, mode="nearest", fill=1)
    for out in (resample(image, source, target, mode="nearest", fill=1), resample_labels(image, source, target)):
        assert out.dtype == dtype
    assert torch.equal(resample(image, source, target, mode="nearest", fill=1).double(), expected)
    assert resample_labels(image, source, target, mode="linear").dtype == dtype
    assert resample(image, source, target).dtype == torch.float32
    assert resample(image.double(), source, target).dtype == torch.float64


def test_a_single_slice_fills_its_own_thickness() -> None:
    source = Grid((5, 6, 1), torch.diag(torch.tensor([1.0, 1, 4, 1])))
    target = Grid((5, 6, 9), torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -4.1], [0, 0, 0, 1]]))
    image = torch.rand(1, 5, 6, 1)
    for mode in ("linear", "nearest"):
        out = resample(image, source, target, mode=mode, fill=-1)
        within = [-2 <= k - 4.1 < 2 for k in range(9)]
        np.testing.assert_allclose(out[..., within], image.expand(-1, -1, -1, 4), atol=1e-6)
        assert (out[..., [not w for w in within]] == -1).all()


class LargestTensor(TorchDispatchMode):
    """Records the bytes of the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_no_coordinates_of_the_whole_volume(mode: str) -> None:
    grid = Grid((128, 128, 128), torch.eye(4))
    image = torch.zeros(1, *grid.shape, dtype=torch.uint8)
    transform = AffineTransform(random_affine(3)) @ random_field(GRIDS["ras"])
    with LargestTensor() as memory:
        resample(image, grid, grid, transform, mode)
    coordinates = 3 * 4 * 128**3
    assert 0 < memory.largest < coordinates / 2
    with LargestTensor() as memory:
        resample_labels(image, grid, grid, transform, mode)
    assert 0 < memory.largest < coordinates / 2


def test_things_that_do_not_belong_together_are_refused() -> None:
    grid, flat = GRIDS["ras"], GRIDS["2-D"]
    image = torch.zeros(1, *grid.shape)
    with pytest.raises(ValueError, match="'bilinear'"):
        resample(image, grid, grid, mode="bilinear")
    with pytest.raises(ValueError, match="'cubic'"):
        resample_labels(image, grid, grid, mode="cubic")
    with pytest.raises(ValueError, match=r"\(20, 22, 18\).*\(1, 5, 5, 5\)"):
        resample(torch.zeros(1, 5, 5, 5), grid, grid)
    with pytest.raises(ValueError, match="3-D image, 2-D grid"):
        resample(image, grid, flat)
    with pytest.raises(ValueError, match="2-D transform"):
        resample(image, grid, grid, AffineTransform.identity(2))
    with pytest.raises(ValueError, match="label map"):
        resample_labels(torch.zeros(2, *grid.shape), grid, grid)


class TestOntoGrid:
    """Resampling to a network grid: averaging before downsampling, border continued outside."""

    @pytest.mark.parametrize("name", GRIDS)
    def test_a_ramp_of_the_world_stays_that_ramp(self, name: str) -> None:
        grid = GRIDS[name]
        ramp = MetaTensor(grid.coordinates()[..., 1].float()[None], affine=four_by_four(grid))
        for size in (0.7, 2.0, 4.1):  # finer, alike, and averaged over two or more voxels an axis
            target = grid.canonical().resized([size] * grid.ndim, [4] * grid.ndim)
            found = resample_to_grid(ramp, target)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found[0], target.coordinates()[..., 1].float(), atol=1e-3, rtol=0)

    def test_through_a_transform_it_is_the_ramp_where_that_leads(self) -> None:
        grid = GRIDS["oblique"]
        ramp = MetaTensor(grid.coordinates()[..., 0].float()[None], affine=grid.affine)
        target = grid.canonical().resized([2.0] * 3, [5] * 3)
        transform = AffineTransform(random_affine(3))
        points = target.coordinates()
        expected = (points @ transform.matrix[:3, :3].T + transform.matrix[:3, 3])[..., 0]
        torch.testing.assert_close(resample_to_grid(ramp, target, transform)[0], expected.float(), atol=1e-3, rtol=0)

    def test_coarse_grids_average_instead_of_picking(self) -> None:
        noise = MetaTensor(torch.randn(1, 48, 48, 48), affine=torch.eye(4))
        coarse = resample_to_grid(noise, Grid.from_image(noise).resized([4.0] * 3))
        assert coarse.shape == (1, 12, 12, 12)
        blocks = noise.as_tensor().view(12, 4, 12, 4, 12, 4).mean(dim=(1, 3, 5))  # the voxels each covers
        torch.testing.assert_close(coarse[0], blocks, atol=1e-5, rtol=0)

    def test_each_axis_averages_as_far_as_the_grid_is_coarser_along_it(self) -> None:
        noise = MetaTensor(torch.randn(1, 24, 24, 24), affine=torch.eye(4))
        turned = Grid((24, 6, 12), torch.tensor([[0, -4.0, 0, 21.5], [-1, 0, 0, 23], [0, 0, 2, 0.5], [0, 0, 0, 1]]))
        found = resample_to_grid(noise, turned)[0]
        blocks = noise.as_tensor().view(6, 4, 24, 12, 2).mean(dim=(1, 4))  # the voxels each covers
        torch.testing.assert_close(found, blocks.flip(0, 1).transpose(0, 1), atol=1e-5, rtol=0)

    def test_rounding_in_a_header_does_not_decide_whether_it_averages(self) -> None:
        noise = torch.randn(1, 24, 24, 24)
        one, other = (
            resample_to_grid(
                MetaTensor(noise, affine=torch.diag(torch.tensor([size] * 3 + [1.0], dtype=torch.float64))),
                Grid((6, 6, 6), torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64))),
            )
            for size in (2.0, 2.0000001)
        )
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)

    def test_an_axis_thinner_than_a_coarse_voxel_is_averaged_whole(self) -> None:
        slab = MetaTensor(torch.rand(1, 12, 12, 2), affine=torch.eye(4))
        coarse = resample_to_grid(slab, Grid.from_image(slab).resized([3.0] * 3))
        expected = slab.as_tensor().view(4, 3, 4, 3, 2).mean(dim=(1, 3, 4))
        torch.testing.assert_close(coarse[0, ..., 0], expected, atol=1e-5, rtol=0)

    def test_outside_the_image_its_border_goes_on(self) -> None:
        image = MetaTensor(torch.rand(1, 4, 4, 4), affine=torch.eye(4))
        far = resample_to_grid(image, Grid((10, 10, 10), torch.eye(4)))[0]
        torch.testing.assert_close(far[:4, :4, :4], image.as_tensor()[0])
        torch.testing.assert_close(far[9, 9], far[3, 3])
        torch.testing.assert_close(far[3:, 2, 1], far[3, 2, 1].expand(7))


def four_by_four(grid: Grid) -> torch.Tensor:
    """The affine of an image file, which is 3-D even where the image is not."""
    affine = torch.eye(4, dtype=torch.float64)
    n = grid.ndim
    affine[:n, :n], affine[:n, 3] = grid.affine[:n, :n], grid.affine[:n, n]
    return affine


def test_voxel_i_of_the_half_resolution_lies_on_voxel_two_i():
    for shape in ((9, 8), (8, 7, 6)):
        half = downsample(identity_grid(list(shape))[:1][None])
        inner = half.flatten(3)[0, 0, 1:-1]
        expected = 2.0 * torch.arange(1, half.shape[2] - 1)
        torch.testing.assert_close(inner, expected.view(-1, *[1] * (inner.dim() - 1)).expand_as(inner))
        assert half.shape[2:] == tuple((size + 1) // 2 for size in shape)


@pytest.mark.parametrize("size", [1, 2])
def test_an_axis_thinner_than_the_window_is_averaged_as_far_as_it_goes(size: int) -> None:
    values = torch.rand(1, 1, 6, size)
    padded = np.pad(values[0, 0].numpy(), ((1, 0), (1, 1)), constant_values=np.nan)
    expected = [np.nanmean(padded[row : row + 3, :3]) for row in (0, 2, 4)]
    torch.testing.assert_close(downsample(values)[0, 0, :, 0], torch.tensor(expected), atol=1e-6, rtol=0)


def test_a_field_of_one_slice_is_made_coarser() -> None:
    """Linear in the plane, which a coarser grid represents; it continues across the slice."""
    grid = Grid((12, 10, 1), torch.diag(torch.tensor([1.0, 1.5, 4.0, 1.0], dtype=torch.float64)))
    slopes = torch.tensor([[0.1, 0.02, 0.0], [0.0, -0.2, 0.0], [0.03, 0.1, 0.0]], dtype=torch.float64)
    field = DisplacementField((grid.coordinates() @ slopes.T).movedim(-1, 0), grid)
    coarse = downsample_field(field, 5.0)
    assert coarse.grid.spacing.tolist() == pytest.approx([5.0, 5.0, 5.0])
    points = grid.coordinates().reshape(-1, 3)
    torch.testing.assert_close(coarse(points), points + points @ slopes.T, atol=1e-6, rtol=0)
