# SPDX-License-Identifier: Apache-2.0
"""Properties that hold for images of any size, type, spacing and orientation, and for any transform."""

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from regplugins.inferers import WholeVolumeInferer
from regplugins.io import load_image, read_transform, write_transform
from regplugins.networks import MultiResolutionFCN
from regplugins.spatial import AffineTransform, DisplacementField, Grid
from regplugins.transforms import ApplyDDFPaird, ApplyTransformPaird, LoadPaird, ResamplePaird

TYPES = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64]


@st.composite
def affines(draw: st.DrawFn, ndim: int, shear: float = 0.0) -> np.ndarray:
    """Voxel to world: turned anyhow, mirrored or not, 0.3 to 4 mm, sheared by up to ``shear``, somewhere."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    turn = Rotation.random(random_state=int(random.integers(2**31))).as_matrix() if ndim == 3 else _turn(random)
    turn[:, 0] *= draw(st.sampled_from([-1, 1]))
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = (np.eye(ndim) + shear * random.uniform(-1, 1, (ndim, ndim))) @ turn
    matrix[:ndim, :ndim] *= np.exp(random.uniform(np.log(0.3), np.log(4), ndim))
    matrix[:ndim, ndim] = random.uniform(-200, 200, ndim)
    return matrix


def _turn(random: np.random.Generator) -> np.ndarray:
    angle = random.uniform(0, 2 * np.pi)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def shapes(ndim: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(1, 40)] * ndim).filter(lambda shape: np.prod(shape) > 1)


@st.composite
def image_files(draw: st.DrawFn, folder: Path, name: str, ndim: int) -> Path:
    """A NIfTI file of noise, of any type, scaled by its header or not."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype, shape = draw(st.sampled_from(TYPES)), draw(shapes(ndim))
    affine = np.eye(4)
    matrix = draw(affines(ndim))
    affine[:ndim, :ndim], affine[:ndim, 3] = matrix[:ndim, :ndim], matrix[:ndim, ndim]
    values = random.integers(0, 120, shape).astype(dtype)
    values.flat[:2] = 3, 100
    image = nib.Nifti1Image(values, affine, dtype=dtype)
    if np.issubdtype(dtype, np.integer) and np.dtype(dtype).itemsize < 4 and draw(st.booleans()):
        image.header.set_slope_inter(0.37, -11.0)
    path = folder / f"{name}.nii.gz"
    nib.save(image, path)
    return path


@given(data=st.data(), ndim=st.sampled_from([2, 3]))
def test_images_go_through_any_affine_transform_as_scipy_has_it(data: st.DataObject, ndim: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [data.draw(image_files(Path(folder), name, ndim)) for name in ("fixed", "moving")]
        fixed, moving = (nib.load(path) for path in paths)
        own = np.ix_([*range(ndim), 3], [*range(ndim), 3])
        fixed_affine, moving_affine = fixed.affine[own], moving.affine[own]
        # Some transform that takes the fixed image's center to that of the moving one.
        matrix = data.draw(affines(ndim, shear=0.2))
        centers = [
            (affine @ [*((np.array(image.shape) - 1) / 2), 1])[:ndim]
            for image, affine in ((fixed, fixed_affine), (moving, moving_affine))
        ]
        matrix[:ndim, ndim] = centers[1] - matrix[:ndim, :ndim] @ centers[0]
        index = np.stack([*np.meshgrid(*map(np.arange, fixed.shape), indexing="ij"), np.ones(fixed.shape)])
        places = np.tensordot(np.linalg.inv(moving_affine) @ matrix @ fixed_affine, index, axes=1)[:ndim]
        sizes = np.array(moving.shape).reshape(-1, *[1] * ndim)
        inside = ((places >= 0) & (places <= sizes - 1)).all(axis=0)
        assume(inside.any())  # others are refused
        pair = LoadPaird()({"fixed": str(paths[0]), "moving": str(paths[1])})
        warped = ApplyTransformPaird(AffineTransform(torch.from_numpy(matrix)), fill=-1e4)(pair)["warped"][0].numpy()
        values = np.asarray(moving.get_fdata())
    outside = ((places < -0.51) | (places > sizes - 0.49)).any(axis=0)
    truth = map_coordinates(values, places.clip(0, sizes - 1), order=1, mode="nearest")
    # float32 places voxels of a world 200 mm away to some 1e-4; noise changes by 100 from one to the next.
    np.testing.assert_allclose(warped[inside], truth[inside], atol=0.1)
    assert (warped[outside] == -1e4).all()


@given(data=st.data(), ndim=st.sampled_from([2, 3]), form=st.sampled_from(["mat", "tfm", "txt", "h5"]))
def test_affine_transforms_survive_their_files(data: st.DataObject, ndim: int, form: str) -> None:
    transform = AffineTransform(torch.from_numpy(data.draw(affines(ndim, shear=0.3))))
    with tempfile.TemporaryDirectory() as folder:
        write_transform(transform, f"{folder}/t.{form}")
        found = read_transform(f"{folder}/t.{form}")
    points = 100 * torch.randn(20, ndim, dtype=torch.float64)
    torch.testing.assert_close(found(points), transform(points), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close((~transform @ transform)(points), points, rtol=1e-8, atol=1e-6)


@given(data=st.data(), ndim=st.sampled_from([2, 3]), form=st.sampled_from(["nii.gz", "nii", "h5"]))
def test_fields_survive_their_files(data: st.DataObject, ndim: int, form: str) -> None:
    grid = Grid(data.draw(shapes(ndim)), torch.from_numpy(data.draw(affines(ndim))))
    field = DisplacementField(5 * torch.randn(ndim, *grid.shape), grid)
    with tempfile.TemporaryDirectory() as folder:
        write_transform(field, f"{folder}/t.{form}")
        found = read_transform(f"{folder}/t.{form}")
    index = torch.rand(20, ndim, dtype=torch.float64) * torch.tensor(grid.shape)
    points = grid.index_to_world(index)
    torch.testing.assert_close(found(points), field(points), rtol=0, atol=5e-3)  # a NIfTI header is float32


@given(data=st.data(), ndim=st.sampled_from([2, 3]))
def test_a_network_takes_pairs_of_any_size(data: st.DataObject, ndim: int) -> None:
    network = MultiResolutionFCN(ndim, channels=(2, 2, 2, 2, 2, 2)).eval()
    for regression in network.regressions:
        torch.nn.init.normal_(regression.conv.weight, std=0.3)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(data.draw(image_files(Path(folder), name, ndim))) for name in ("fixed", "moving")}
        spacing = load_image(paths["fixed"]).pixdim.max().item()
        try:
            pair = ResamplePaird(spacing, init="fov")(LoadPaird()(paths))
        except ValueError as error:  # images as thin as a voxel
            assume("do not overlap" not in str(error) and "at least 4 along" not in str(error))
            raise
        with torch.no_grad():
            pair["pred"] = WholeVolumeInferer()(pair["pair"][None], network)
        pair = ApplyDDFPaird()(pair)
    fixed = pair["fixed"]
    assert pair["warped"].shape == fixed.shape
    assert pair["displacement"].vectors.shape == (ndim, *fixed.shape[1:])
    for values in (pair["warped"], pair["displacement"].vectors, pair["inverse"].vectors):
        assert values.isfinite().all()


@pytest.mark.parametrize("dtype", TYPES)
def test_values_are_those_of_the_header(dtype: type, tmp_path: Path) -> None:
    values = np.arange(24).reshape(2, 3, 4)
    image = nib.Nifti1Image(values.astype(dtype), np.eye(4), dtype=dtype)
    image.header.set_slope_inter(0.5, -3)  # nibabel writes the array as it is, and this beside it
    nib.save(image, tmp_path / "scaled.nii.gz")
    np.testing.assert_allclose(load_image(tmp_path / "scaled.nii.gz")[0].numpy(), values * 0.5 - 3, atol=1e-5)
