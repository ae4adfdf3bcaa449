# SPDX-License-Identifier: Apache-2.0
"""Composite files and other transforms that ITK reads, against SimpleITK."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regplugins.io import read_transform, write_transform
from regplugins.io.itk_bridge import itk_class
from regplugins.spatial import AffineTransform, CompositeTransform, DisplacementField, Grid
from tests.itk_truth import GRIDS, points_in, random_affine, random_field, sitk_image, transform_points

grids = pytest.mark.parametrize("grid", [GRIDS["oblique"], GRIDS["las"], GRIDS["2-D oblique"]])


def linear_transforms() -> dict[str, sitk.Transform]:
    """Transforms of every kind that linear registration with ITK writes."""
    center, shift = (10.0, -20.0, 30.0), (3.0, 4.0, -5.0)
    axis = (1 / math.sqrt(3),) * 3
    return {
        "translation": sitk.TranslationTransform(3, shift),
        "euler": sitk.Euler3DTransform(center, 0.1, -0.2, 0.3, shift),
        "versor": sitk.VersorRigid3DTransform(axis, 0.4, shift, center),
        "rotation": sitk.VersorTransform(axis, 0.3, center),
        "similarity": sitk.Similarity3DTransform(1.2, axis, -0.3, shift, center),
        "scale": sitk.ScaleTransform(3, (1.1, 0.9, 1.2)),
        "affine": sitk.AffineTransform((1.1, 0.1, 0.2, -0.1, 0.9, 0.3, 0, 0.1, 1.2), shift, center),
        "rigid 2-D": sitk.Euler2DTransform((10.0, -20.0), 0.3, (4.0, 5.0)),
        "similarity 2-D": sitk.Similarity2DTransform(0.8, -0.2, (4.0, 5.0), (10.0, -20.0)),
    }


@pytest.mark.parametrize("suffix", [".tfm", ".mat", ".h5"])
@pytest.mark.parametrize("kind", linear_transforms())
def test_every_linear_transform_by_itk_is_affine(kind: str, suffix: str, tmp_path: Path) -> None:
    transform = linear_transforms()[kind]
    sitk.WriteTransform(transform, tmp_path / f"itk{suffix}")
    read = read_transform(tmp_path / f"itk{suffix}")
    assert isinstance(read, AffineTransform)
    points = 50 * torch.randn(20, transform.GetDimension(), dtype=torch.float64)
    np.testing.assert_allclose(read(points), transform_points(transform, points), atol=1e-10)


def chain(grid: Grid) -> CompositeTransform:
    """Affine, field, affine; the last is applied first."""
    outer, inner = AffineTransform(random_affine(grid.ndim)), AffineTransform(random_affine(grid.ndim))
    return CompositeTransform([outer, random_field(grid), inner])


@grids
def test_itk_reads_composites_in_the_same_order(grid: Grid, tmp_path: Path) -> None:
    transform = chain(grid)
    write_transform(transform, tmp_path / "composite.h5")
    theirs = sitk.ReadTransform(tmp_path / "composite.h5")
    assert theirs.GetName() == "CompositeTransform"
    # Points that the inner affine takes into the field's grid, since beyond it ITK's field stops and ours continues.
    points = transform.transforms[2].inverse()(points_in(grid))
    np.testing.assert_allclose(transform_points(theirs, points), transform(points), atol=1e-4)
    assert (CompositeTransform(transform.transforms[::-1])(points) - transform(points)).abs().max() > 0.5
    assert os.listdir(tmp_path) == ["composite.h5"]


@grids
def test_composites_by_itk_are_read(grid: Grid, tmp_path: Path) -> None:
    ours = random_field(grid)
    signs = torch.tensor([-1.0, -1, 1][: grid.ndim], dtype=torch.float64).view(-1, *[1] * grid.ndim)
    vectors = sitk.Compose([sitk_image(component, grid) for component in ours.vectors * signs])
    rigid = sitk.Euler3DTransform() if grid.ndim == 3 else sitk.Euler2DTransform()
    rigid.SetParameters([0.1, 0.2, -0.1, 3, 4, 5][: rigid.GetNumberOfParameters()])
    shift = sitk.TranslationTransform(grid.ndim, [1.0, 2.0, 3.0][: grid.ndim])
    theirs = sitk.CompositeTransform([rigid, sitk.DisplacementFieldTransform(vectors), shift])
    sitk.WriteTransform(theirs, tmp_path / "itk.h5")
    read = read_transform(tmp_path / "itk.h5")
    assert isinstance(read, CompositeTransform)
    assert [type(part) for part in read.transforms] == [AffineTransform, DisplacementField, AffineTransform]
    points = read.transforms[2].inverse()(points_in(grid))
    np.testing.assert_allclose(read(points), transform_points(theirs, points), atol=1e-4)


def test_text_composites_become_one_affine(tmp_path: Path) -> None:
    transforms = linear_transforms()
    theirs = sitk.CompositeTransform([transforms[kind] for kind in ("similarity", "translation", "euler")])
    sitk.WriteTransform(theirs, tmp_path / "composite.tfm")
    read = read_transform(tmp_path / "composite.tfm")
    points = 50 * torch.randn(20, 3, dtype=torch.float64)
    np.testing.assert_allclose(read(points), transform_points(theirs, points), atol=1e-9)


def test_single_precision_composites_as_ants_writes_them_are_read(tmp_path: Path) -> None:
    composite = itk_class("CompositeTransform", "F3").New()
    for offset in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]):
        affine = itk_class("AffineTransform", "F3").New()
        affine.SetOffset(offset)
        composite.AddTransform(affine)
    writer = itk_class("TransformFileWriterTemplate", "F", "TransformFileWriter").New()
    writer.SetTransformIO(itk_class("HDF5TransformIOTemplate", "F", "HDF5TransformIO").New())
    writer.SetFileName(str(tmp_path / "float.h5"))
    writer.SetInput(composite)
    writer.Update()
    mapped = read_transform(tmp_path / "float.h5")(torch.zeros(3, dtype=torch.float64))
    np.testing.assert_allclose(mapped, [-5, -7, 9], atol=1e-6)


@pytest.mark.parametrize("kind", ["euler", "translation"])
def test_truncated_text_is_not_taken_for_the_identity(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rigid.tfm"
    sitk.WriteTransform(linear_transforms()[kind], path)
    whole = path.read_text()
    for end in ("Parameters", "FixedParameters"):
        path.write_text(whole[: whole.index(f"\n{end}")])
        with pytest.raises(ValueError, match=r"rigid\.tfm: damaged"):
            read_transform(path)


def test_other_kinds_are_named(tmp_path: Path) -> None:
    sitk.WriteTransform(sitk.BSplineTransform(3), tmp_path / "spline.h5")
    with pytest.raises(ValueError, match=r"spline\.h5: a BSplineTransform is not supported"):
        read_transform(tmp_path / "spline.h5")


def test_a_process_loads_the_classes_it_needs_and_no_others(tmp_path: Path) -> None:
    """In a process of its own: here all of ITK is loaded."""
    grid = GRIDS["oblique"]
    write_transform(chain(grid), tmp_path / "composite.h5")
    program = """
import sys
from regplugins.io import read_transform, write_transform
write_transform(read_transform(sys.argv[1]), sys.argv[2])
assert "itk.itkCompositeTransformPython" in sys.modules
assert "itk.itkBSplineTransformPython" not in sys.modules, "all of ITK's transforms are loaded"
"""
    files = [str(tmp_path / name) for name in ("composite.h5", "again.h5")]
    subprocess.run([sys.executable, "-c", program, *files], check=True, timeout=300)
    points = points_in(grid)
    before, after = (transform_points(sitk.ReadTransform(file), points) for file in files)
    np.testing.assert_allclose(after, before, atol=1e-9)


def test_a_field_with_nan_is_refused(tmp_path: Path) -> None:
    values = np.zeros((4, 5, 6, 3))
    values[1, 2, 3, 0] = np.nan
    field = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(values, isVector=True))
    sitk.WriteTransform(field, str(tmp_path / "field.h5"))
    with pytest.raises(ValueError, match=r"field\.h5: .*displacements are NaN or infinite"):
        read_transform(tmp_path / "field.h5")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "composite.h5"
    write_transform(chain(GRIDS["ras"]), path)
    whole = path.read_bytes()
    for content in (whole[:1], whole[:600], whole[: len(whole) // 2], whole[:-1], b"no transform" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"composite\.h5: damaged"):
            read_transform(path)
