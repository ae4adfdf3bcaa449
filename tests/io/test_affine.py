# SPDX-License-Identifier: Apache-2.0
"""Affine files against SimpleITK."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.io import savemat

from regplugins.io import read_transform, write_transform
from regplugins.spatial import AffineTransform
from tests.itk_truth import GRIDS, random_affine, random_field, transform_points

suffixes = pytest.mark.parametrize("suffix", [".mat", ".tfm", ".txt"])
dimensions = pytest.mark.parametrize("ndim", [2, 3])


@suffixes
@dimensions
def test_itk_reads_what_is_written(suffix: str, ndim: int, tmp_path: Path) -> None:
    path, transform = tmp_path / f"affine{suffix}", AffineTransform(random_affine(ndim))
    write_transform(transform, path)
    points = 100 * torch.randn(20, ndim, dtype=torch.float64)
    itk = sitk.ReadTransform(path)
    assert itk.GetName() == "AffineTransform"
    np.testing.assert_allclose(transform_points(itk, points), transform(points), atol=1e-10)
    assert os.listdir(tmp_path) == [path.name]


@suffixes
@dimensions
def test_files_by_itk_with_a_center_are_read(suffix: str, ndim: int, tmp_path: Path) -> None:
    itk = sitk.AffineTransform(ndim)
    itk.SetMatrix(random_affine(ndim)[:ndim, :ndim].ravel().tolist())
    itk.SetTranslation(torch.randn(ndim).tolist())
    itk.SetCenter((50 * torch.randn(ndim)).tolist())
    sitk.WriteTransform(itk, tmp_path / f"itk{suffix}")
    points = 100 * torch.randn(20, ndim, dtype=torch.float64)
    read = read_transform(tmp_path / f"itk{suffix}")
    assert isinstance(read, AffineTransform)
    np.testing.assert_allclose(read(points), transform_points(itk, points), atol=1e-10)


def test_file_as_ants_writes_it_is_read(tmp_path: Path) -> None:
    """ANTs writes single-precision MatrixOffsetTransformBase, too."""
    matrix = np.array([[1.1, 0.2, 0.0], [-0.1, 0.9, 0.3], [0.0, 0.1, 1.2]])
    translation, center = np.array([3.0, -4.0, 5.0]), np.array([10.0, 20.0, -30.0])
    parameters = np.concatenate([matrix.ravel(), translation]).astype(np.float32)
    variables = {"MatrixOffsetTransformBase_float_3_3": parameters, "fixed": center.astype(np.float32)}
    savemat(tmp_path / "ants.mat", variables, format="4", oned_as="column")
    lps = np.array([1.0, 2.0, 3.0])
    expected = (matrix @ (lps - center) + center + translation) * [-1, -1, 1]
    mapped = read_transform(tmp_path / "ants.mat")(torch.from_numpy(lps * [-1, -1, 1]))
    np.testing.assert_allclose(mapped, expected, atol=1e-5)


@suffixes
def test_truncated_files_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"affine{suffix}"
    write_transform(AffineTransform(random_affine(3)), path)
    whole = path.read_bytes()
    fixed = whole.index(b"fixed" if suffix == ".mat" else b"FixedParameters")
    for length in (1, 7, len(whole) // 3, len(whole) // 2, fixed - 1, fixed + 2):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"affine\{suffix}: damaged"):
            read_transform(path)


@suffixes
@pytest.mark.parametrize("content", [b"no transform\n" * 20, bytes(range(256)) * 4], ids=["text", "bytes"])
def test_other_files_are_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / f"other{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=rf"other\{suffix}: damaged"):
        read_transform(tmp_path / f"other{suffix}")


@pytest.mark.parametrize(
    ("parameters", "fixed"),
    [("1 0 0 1 0", "0 0"), ("1 0 0 1 0 zero", "0 0"), ("1 0 0 1 0 nan", "0 0"), ("1 0 0 1 0 0", "0")],
    ids=["one too few", "a word", "not a number", "half a center"],
)
def test_wrong_parameters_are_refused(parameters: str, fixed: str, tmp_path: Path) -> None:
    lines = f"Transform: AffineTransform_double_2_2\nParameters: {parameters}\nFixedParameters: {fixed}\n"
    (tmp_path / "wrong.tfm").write_text(f"#Insight Transform File V1.0\n#Transform 0\n{lines}")
    with pytest.raises(ValueError, match=r"wrong\.tfm: damaged"):
        read_transform(tmp_path / "wrong.tfm")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("kind", "parameters", "fixed"),
    [
        ("AffineTransform_double_3_3", "1 0 0 0 1 0 0 0 1 0 0 {}", "0 0 0"),
        ("AffineTransform_double_3_3", "1 0 0 0 1 0 0 0 1 0 0 0", "0 {} 0"),
        ("Euler3DTransform_double_3_3", "{} 0 0 0 0 0", "0 0 0 0"),  # ITK crashes on it
        ("TranslationTransform_double_2_2", "1 {}", ""),
    ],
)
def test_numbers_that_are_not_finite_are_told(
    kind: str, parameters: str, fixed: str, value: str, tmp_path: Path
) -> None:
    lines = f"Transform: {kind}\nParameters: {parameters.format(value)}\nFixedParameters: {fixed.format(value)}\n"
    composite = "#Insight Transform File V1.0\n#Transform 0\nTransform: CompositeTransform_double_3_3\n#Transform 1\n"
    for head in ("#Insight Transform File V1.0\n#Transform 0\n", composite):
        (tmp_path / "bad.tfm").write_text(head + lines)
        with pytest.raises(ValueError, match=r"bad\.tfm: .*its parameters are NaN or infinite"):
            read_transform(tmp_path / "bad.tfm")


def test_a_composite_of_numbers_that_are_not_finite(tmp_path: Path) -> None:
    shift = sitk.TranslationTransform(3, (float("nan"), 0.0, 0.0))
    sitk.WriteTransform(sitk.CompositeTransform([shift]), tmp_path / "bad.h5")
    with pytest.raises(ValueError, match=r"bad\.h5: its parameters are NaN or infinite"):
        read_transform(tmp_path / "bad.h5")


def test_other_transforms_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"field\.mat.*DisplacementField"):
        write_transform(random_field(GRIDS["ras"]), tmp_path / "field.mat")
    assert os.listdir(tmp_path) == []
