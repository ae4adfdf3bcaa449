# SPDX-License-Identifier: Apache-2.0
import csv
import math
import re
from pathlib import Path

import pytest

from regplugins.report.table import metrics_text, read_table, write_table

NAMES = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\tx", "plain", "'quoted", "'=already", 'a,b\n"c"', "ä"]


def test_no_text_is_a_formula_and_every_text_comes_back(tmp_path: Path) -> None:
    write_table([{"name": name, "loss": -0.5} for name in NAMES], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        seen = list(csv.DictReader(file))
    assert not [row["name"] for row in seen if row["name"][0] in "=+-@\t\r"]
    assert {row["loss"] for row in seen} == {"-0.5"}
    assert [row["name"] for row in read_table(tmp_path / "t.csv")] == NAMES


def test_what_is_missing_or_not_finite_is_empty(tmp_path: Path) -> None:
    write_table([{"name": "a", "x": float("nan")}, {"name": "b", "y": 1.5}], tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv") == [{"name": "a", "x": "", "y": ""}, {"name": "b", "x": "", "y": "1.5"}]


@pytest.mark.parametrize("content", [b"name,x\na\n", b"name\na,1\n", b"\xff\xfe\x00"])
def test_no_table(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.csv"):
        read_table(tmp_path / "t.csv")


def test_a_pair() -> None:
    row = {"name": "a", "ncc_before": 0.71, "ncc_after": 0.912, "tre_mean_before": 16.05, "tre_mean_after": 1.5}
    row |= {"tre_max_before": 20.0, "tre_max_after": 23.7}
    row |= {"affine_rotation_degrees": 12.5, "affine_translation_mm": 3.0}
    lines = metrics_text([row | {"dice_mean_before": None, "folding_percent": 0.25, "seconds": 123.4}]).splitlines()
    assert [line.split() for line in lines] == [
        ["before", "after"],
        ["NCC", "0.710", "0.912"],
        ["TRE", "mean", "16.050", "1.500", "mm"],
        ["TRE", "maximum", "20.000", "23.700", "mm"],
        ["rotation", "12.500", "degrees"],
        ["translation", "3.000", "mm"],
        ["folding", "0.250", "%"],
        ["time", "123", "s"],
    ]
    # The figures stand below their headings.
    assert lines[0].index("after") == lines[1].index("0.912")


def test_a_figure_that_is_missing_is_a_dash() -> None:
    """As of a moving image that covers nothing after registration."""
    row = {
        "ncc_before": 0.71,
        "ncc_after": None,
        "mutual_information_after": 0.5,
        "mutual_information_before": math.nan,
    }
    lines = metrics_text([row | {"seconds": 2.0}]).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["NCC", "0.710", "-"],
        ["mutual", "information", "-", "0.500", "nat"],
        ["time", "2.000", "s"],
    ]


def test_several_pairs_have_mean_and_standard_deviation() -> None:
    rows = [{"ncc_before": 0.0, "ncc_after": value} for value in (0.2, 0.4)] + [{"status": "failed"}]
    assert "0.300 ± 0.141" in metrics_text(rows)
    assert "(n" not in metrics_text(rows)


def test_a_figure_that_some_pairs_lack_has_its_number_of_pairs() -> None:
    rows = [{"ncc_before": 0.1, "ncc_after": 0.5, "status": "done"} for _ in range(4)]
    rows[0] |= {"tre_mean_before": 9.0, "tre_mean_after": 1.0}
    rows[1] |= {"tre_mean_before": 7.0, "tre_mean_after": 1.0}
    _, ncc, tre = metrics_text([*rows, {"status": "missing"}]).splitlines()
    assert re.sub(" +", " ", ncc) == "NCC 0.100 ± 0.000 0.500 ± 0.000"
    assert re.sub(" +", " ", tre) == "TRE mean 8.000 ± 1.414 (n = 2) 1.000 ± 0.000 (n = 2) mm"


def test_no_figures() -> None:
    assert metrics_text([{"name": "a", "status": "failed"}]) == ""
