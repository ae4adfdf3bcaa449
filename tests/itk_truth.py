# SPDX-License-Identifier: Apache-2.0
"""Grids of every orientation, and SimpleITK's view of images on them: the independent truth of tests about geometry."""

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from regplugins.spatial import AffineTransform, DisplacementField, Grid


def rotation(ndim: int, degrees: float = 20.0) -> np.ndarray:
    """A turn about the last axis, in 3-D followed by another about the first."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if ndim == 2:
        return np.array([[c, -s], [s, c]])
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def make_grid(
    shape: tuple[int, ...], directions: np.ndarray, spacing: tuple[float, ...], center: tuple[float, ...]
) -> Grid:
    """A grid from the unit vectors of its axes (columns), mm."""
    n = len(shape)
    affine = np.eye(n + 1)
    affine[:n, :n] = directions * np.array(spacing)
    affine[:n, n] = np.array(center) - affine[:n, :n] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, torch.from_numpy(affine))


# Offsets are crooked, so that no voxel center falls half-way between two others, where rounding alone would decide.
GRIDS = {
    "ras": make_grid((20, 22, 18), np.eye(3), (2.0, 2.0, 2.0), (3.13, -4.21, 5.37)),
    "las": make_grid((21, 19, 20), np.diag([-1.0, 1, 1]), (2.1, 1.9, 2.0), (2.71, -3.17, 4.43)),
    "lps": make_grid((18, 20, 21), np.diag([-1.0, -1, 1]), (2.2, 2.0, 1.8), (4.19, -5.23, 6.11)),
    "permuted": make_grid((19, 18, 20), np.eye(3)[[2, 0, 1]], (2.0, 2.1, 1.9), (3.77, -4.59, 4.81)),
    "oblique": make_grid((20, 20, 19), rotation(3), (2.0, 2.1, 2.2), (3.31, -4.67, 5.03)),
    "left-handed oblique": make_grid(
        (19, 21, 20), rotation(3, -35) @ np.diag([1.0, 1, -1]), (2, 2, 2), (2.9, -4.3, 5.5)
    ),
    "anisotropic": make_grid((36, 30, 6), rotation(3, 8), (1.1, 1.3, 6.5), (3.53, -4.11, 5.71)),
    "small": make_grid((12, 11, 13), rotation(3, 50), (2.0, 1.8, 1.7), (6.39, 0.57, 4.83)),
    "2-D": make_grid((24, 22), np.eye(2), (1.5, 1.9), (3.17, -4.23)),
    "2-D oblique": make_grid((22, 25), rotation(2, 30) @ np.diag([-1.0, 1]), (1.7, 1.4), (2.83, -3.71)),
}


def random_field(grid: Grid, size: float = 2.0) -> DisplacementField:
    """Each component a product of cosines of random phase, one period a grid and ``size`` mm high."""
    vectors = torch.full((grid.ndim, *grid.shape), size)
    for axis, length in enumerate(grid.shape):
        phase = 2 * math.pi * torch.rand(grid.ndim, 1)
        wave = torch.cos(2 * math.pi * torch.arange(length) / length + phase)
        vectors *= wave.view(grid.ndim, *[length if k == axis else 1 for k in range(grid.ndim)])
    return DisplacementField(vectors, grid)


def random_affine(ndim: int) -> Tensor:
    """A homogeneous matrix that turns, shears, scales and shifts a little."""
    matrix = torch.eye(ndim + 1, dtype=torch.float64)
    matrix[:ndim] += 0.08 * torch.randn(ndim, ndim + 1, dtype=torch.float64)
    matrix[:ndim, ndim] += torch.tensor([2.3, -1.7, 1.1][:ndim])
    return matrix


def translation(*millimeters: float) -> AffineTransform:
    """A shift, RAS+ mm."""
    transform = AffineTransform.identity(len(millimeters))
    transform.matrix[:-1, -1] = torch.tensor(millimeters, dtype=torch.float64)
    return transform


def points_in(grid: Grid, number: int = 200) -> Tensor:
    """Random world points (number, n) between the grid's voxel centers."""
    index = torch.rand(number, grid.ndim, dtype=torch.float64) * (torch.tensor(grid.shape) - 1)
    return grid.index_to_world(index)


def write_image(image: Tensor, grid: Grid, path: Path) -> None:
    """Write (*spatial) as NIfTI with nibabel, not with the package."""
    n = grid.ndim
    affine = np.eye(4)
    affine[np.ix_([*range(n), 3], [*range(n), 3])] = grid.affine.numpy()
    nifti = nib.Nifti1Image(image.numpy(), affine)
    nifti.set_sform(affine, 1)
    nifti.set_qform(affine, 1)
    nib.save(nifti, path)


def sitk_image(image: Tensor, grid: Grid) -> sitk.Image:
    """A SimpleITK image (LPS mm) from (*spatial), its geometry set directly."""
    n = grid.ndim
    lps = np.diag([-1.0, -1, 1][:n]) @ grid.affine[:n].numpy()
    spacing = np.linalg.norm(lps[:, :n], axis=0)
    out = sitk.GetImageFromArray(np.ascontiguousarray(image.numpy().T))
    out.SetSpacing(spacing.tolist())
    out.SetDirection((lps[:, :n] / spacing).ravel().tolist())
    out.SetOrigin(lps[:, n].tolist())
    return out


def write_series(image: sitk.Image, folder: Path, uid: str) -> None:
    """A DICOM series of slices, as a scanner would have written it."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    direction, position = image.GetDirection(), image.GetSize()[2]
    orientation = "\\".join(str(direction[k]) for k in (0, 3, 6, 1, 4, 7))
    for k in range(position):
        plane = image[:, :, k]
        tags = {
            "0008|0060": "MR",
            "0020|000e": uid,
            "0020|000d": "1.2.3",
            "0008|0018": f"{uid}.{k + 1}",
            "0020|0037": orientation,
            "0020|0032": "\\".join(str(x) for x in image.TransformIndexToPhysicalPoint((0, 0, k))),
            "0020|0013": str(k),
            "0018|0050": str(image.GetSpacing()[2]),
        }
        for key, value in tags.items():
            plane.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{uid}_{k:03d}.dcm"))
        writer.Execute(plane)


def read_field(path: str | Path) -> sitk.DisplacementFieldTransform:
    """A displacement field's file as SimpleITK's transform."""
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def read_results(folder: Path) -> sitk.CompositeTransform:
    """The transforms that a registration wrote: of the field, then of the affine file."""
    affine = sitk.ReadTransform(str(folder / "transform_0GenericAffine.mat"))
    return sitk.CompositeTransform([affine, read_field(folder / "transform_1Warp.nii.gz")])


def array_of(image: sitk.Image) -> np.ndarray:
    """Array (*spatial) of a SimpleITK image."""
    return sitk.GetArrayFromImage(image).T


def same_geometry(a: sitk.Image, b: sitk.Image) -> bool:
    """Tell whether two images have the same voxels in the same places, as far as NIfTI's float32 header can tell."""
    return a.GetSize() == b.GetSize() and all(
        np.allclose(x, y, rtol=1e-6, atol=1e-5)
        for x, y in (
            (a.GetOrigin(), b.GetOrigin()),
            (a.GetSpacing(), b.GetSpacing()),
            (a.GetDirection(), b.GetDirection()),
        )
    )


def transform_points(transform: sitk.Transform, points: Tensor) -> Tensor:
    """Map (number, n) RAS+ points by an ITK transform, which maps LPS+ points."""
    signs = torch.tensor([-1.0, -1, 1][: points.shape[1]], dtype=torch.float64)
    mapped = [transform.TransformPoint(point) for point in (points * signs).tolist()]
    return torch.tensor(mapped, dtype=torch.float64) * signs


def outside_value(values: np.ndarray) -> float:
    """Hounsfield units of air around a CT, 0 around other images."""
    return -1024.0 if values.min() < -900 else 0.0
