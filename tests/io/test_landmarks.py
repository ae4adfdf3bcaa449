# SPDX-License-Identifier: Apache-2.0
"""Landmark files: written points are read, in either world."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from regplugins.io import landmarks_outside, read_landmark_names, read_landmarks, write_landmarks
from regplugins.spatial import Grid
from tests.itk_truth import translation


@pytest.mark.parametrize("space", ["RAS", "LPS"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_round_trip_is_exact(space: str, ndim: int, tmp_path: Path) -> None:
    points = 100 * torch.randn(7, ndim, dtype=torch.float64)
    write_landmarks(points, tmp_path / "points.csv", space)
    assert torch.equal(read_landmarks(tmp_path / "points.csv", space), points)
    assert read_landmark_names(tmp_path / "points.csv") is None
    assert os.listdir(tmp_path) == ["points.csv"]


def test_lps_changes_the_signs_of_x_and_y(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n-4.5,5e1,-6\n")
    ras = [[1, 2, 3], [-4.5, 50, -6]]
    assert read_landmarks(tmp_path / "points.csv").tolist() == ras
    assert read_landmarks(tmp_path / "points.csv", "LPS").tolist() == [[-1, -2, 3], [4.5, -50, -6]]
    write_landmarks(torch.tensor(ras), tmp_path / "lps.csv", "LPS")
    with (tmp_path / "lps.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["x", "y", "z"]
    np.testing.assert_array_equal(np.array(rows, dtype=float), [[-1, -2, 3], [4.5, -50, -6]])


def test_columns_are_found_by_name_in_any_order_and_names_kept(tmp_path: Path) -> None:
    content = '\ufeffname, z, x, y, weight\nac, 3, 1, 2, 1\n"pc, left", 6, 4, 5, 1\n'
    (tmp_path / "points.csv").write_text(content, encoding="utf-8")
    points = read_landmarks(tmp_path / "points.csv")
    names = read_landmark_names(tmp_path / "points.csv")
    assert points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert names == ["ac", "pc, left"]
    write_landmarks(points, tmp_path / "again.csv", names=names)
    assert read_landmark_names(tmp_path / "again.csv") == names
    assert torch.equal(read_landmarks(tmp_path / "again.csv"), points)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,2,3\n4,5,6\n", r"header with x, y, z, each once, got \['1', '2', '3'\]"),
        ("x,z\n1,2\n", r"header with x, y, z, each once, got \['x', 'z'\]"),
        ("x,y,z\n", "no landmarks"),
        ("x,y,z\n1,2,3\n1,two,3\n", "landmark 2: expected numbers"),
        ("x,y,z\n1,2\n", "landmark 1: expected numbers"),
        ("x,y,z\n1,2,3\n1,10,20,30\n", "landmark 2: 4 values below a header of 3"),
        ("x,y,z,X\n1,2,3,4\n", "header with x, y, z"),
        ("x,y,z\n1,2,nan\n", "finite"),
        ("x,y,z\n1,inf,3\n", "finite"),
        ("", "empty"),
    ],
)
def test_bad_files_are_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text(content)
    with pytest.raises(ValueError, match=rf"points\.csv: .*{message}"):
        read_landmarks(tmp_path / "points.csv")


def test_a_delimiter_at_the_end_of_a_row_is_no_value(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3,\n4,5,6,\n")
    assert read_landmarks(tmp_path / "points.csv").tolist() == [[1, 2, 3], [4, 5, 6]]


def test_tables_of_birl_and_of_spreadsheets_are_read(tmp_path: Path) -> None:
    for content in (",X,Y\n0,1.5,2\n1,3,4\n", "X;Y\n1.5;2\n3;4\n", "x\ty\n1.5\t2\n3\t4\n"):
        (tmp_path / "points.csv").write_text(content)
        assert read_landmarks(tmp_path / "points.csv").tolist() == [[1.5, 2], [3, 4]]


@pytest.mark.parametrize(("space", "said"), [("LPS", "LPS"), ("RAS", "RAS"), ("LPS", "1"), ("RAS", "0")])
def test_slicer_s_files_say_their_world(space: str, said: str, tmp_path: Path) -> None:
    """The point is 1 mm to the left, 2 mm to the back and 3 mm up, which RAS+ calls -1, -2, 3."""
    position = [1.0, 2.0, 3.0] if space == "LPS" else [-1.0, -2.0, 3.0]
    points = [{"label": "a", "position": position, "positionStatus": "defined"}, {"label": "b", "position": [0, 0, 0]}]
    markup = {"type": "Fiducial", "coordinateSystem": said, "coordinateUnits": "mm", "controlPoints": points}
    (tmp_path / "points.mrk.json").write_text(json.dumps({"markups": [markup]}))
    rows = [
        f"vtkMRMLMarkupsFiducialNode_0,{','.join(map(str, position))},0,0,0,1,1,1,0,a,,\n",
        "1,0,0,0,0,0,0,1,1,1,0,b,,\n",
    ]
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    head = f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {said}\n{columns}"
    (tmp_path / "points.fcsv").write_text(head + "".join(rows))
    for name in ("points.mrk.json", "points.fcsv"):
        for asked in ("RAS", "LPS"):
            assert read_landmarks(tmp_path / name, asked).tolist() == [[-1, -2, 3], [0, 0, 0]]
        assert read_landmark_names(tmp_path / name) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.mrk.json", "{}", "not a markups file of Slicer .*markups"),
        ("p.mrk.json", '{"markups": []}', "no landmarks"),
        ("p.mrk.json", '{"markups": [{"controlPoints": [{"label": "F"}]}]}', "point 'F' was not placed"),
        (
            "p.mrk.json",
            '{"markups": [{"coordinateUnits": "cm", "controlPoints": []}]}',
            "coordinates in cm, expected mm",
        ),
        ("p.mrk.json", '{"markups": [{"coordinateSystem": "IJK", "controlPoints": []}]}', "'IJK'"),
        (
            "p.mrk.json",
            '{"markups": [{"coordinateSystem": "RAS", "controlPoints": []}, {"controlPoints": []}]}',
            "LPS and RAS",
        ),
        (
            "p.mrk.json",
            '{"markups": [{"controlPoints": [{"label": "F", "position": [1, 2]}]}]}',
            "'F' has 2 coordinates",
        ),
        ("p.fcsv", "# columns = id,a,b\n1,0,0\n", "columns"),
        ("p.fcsv", "# CoordinateSystem = 7\n1,0,0,0\n", "not a fiducial file.*'7'"),
        ("p.fcsv", "# CoordinateSystem = 0\n", "no landmarks"),
        ("p.fcsv", "# CoordinateSystem = 0\n1,a,0,0\n", "expected numbers"),
    ],
)
def test_bad_files_of_slicer_are_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        read_landmarks(tmp_path / name)


def test_missing_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file"):
        read_landmarks(tmp_path / "none.csv")
    (tmp_path / "image.csv").write_bytes(bytes(range(255, 0, -1)))
    with pytest.raises(ValueError, match=r"image\.csv: not a CSV file"):
        read_landmarks(tmp_path / "image.csv")


@pytest.mark.parametrize(
    ("offset", "hint"),
    [(-8.0, "; as LPS 27 would lie inside"), (-11.0, "; as voxel indices 27"), (-2.0, "; as voxel indices 27")],
)
def test_another_space_is_proposed_if_more_points_lie_in_it(offset: float, hint: str) -> None:
    """27 voxel indices from 0 to 8 in an image of 9 voxels of 1 mm: as LPS all, or 12, lie in its field of view."""
    affine = translation(offset, offset, 0.0).matrix
    points = torch.cartesian_prod(*3 * [torch.tensor([0.0, 4, 8], dtype=torch.float64)])
    _, message = landmarks_outside(points, Grid((9, 9, 9), affine), ("p.csv", "image"), "RAS")
    assert hint in message


def test_a_file_that_names_the_wrong_world_is_told(tmp_path: Path) -> None:
    """Points between 0 and 8 mm in RAS+, of an image between -8 and 0 mm."""
    points = torch.tensor([[1.0, 2.0, 3.0], [7.0, 4.0, 1.0]], dtype=torch.float64)
    _, message = landmarks_outside(
        points, Grid((9, 9, 9), translation(-8.0, -8.0, 0.0).matrix), ("p.fcsv", "image"), "RAS"
    )
    assert message.endswith("in the world that the file names; with x and y negated 2 would lie inside")


def test_wrong_arguments_write_nothing(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    with pytest.raises(ValueError, match="'lps'"):
        write_landmarks(torch.zeros(2, 3), path, "lps")
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        write_landmarks(torch.zeros(2, 4), path)
    with pytest.raises(ValueError, match="1 names for 2 points"):
        write_landmarks(torch.zeros(2, 3), path, names=["one"])
    assert os.listdir(tmp_path) == []
