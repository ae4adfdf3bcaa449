# SPDX-License-Identifier: Apache-2.0
import csv
from pathlib import Path

import pytest

from regplugins.report.table import read_table, write_table

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
