# SPDX-License-Identifier: Apache-2.0
import math
import re

from regplugins.report.terminal import figures_text


def test_a_pair() -> None:
    row = {"name": "a", "ncc_before": 0.71, "ncc_after": 0.912, "tre_mean_before": 16.05, "tre_mean_after": 1.5}
    row |= {"tre_max_before": 20.0, "tre_max_after": 23.7}
    row |= {"affine_rotation_degrees": 12.5, "affine_translation_mm": 3.0}
    lines = figures_text([row | {"dice_mean_before": None, "folding_percent": 0.25, "seconds": 123.4}]).splitlines()
    assert [line.split() for line in lines] == [
        ["before", "after"],
        ["NCC", "0.710", "0.912"],
        ["TRE,", "mean", "16.050", "1.500", "mm"],
        ["TRE,", "maximum", "20.000", "23.700", "mm"],
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
    lines = figures_text([row | {"seconds": 2.0}]).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["NCC", "0.710", "-"],
        ["mutual", "information", "-", "0.500", "nat"],
        ["time", "2.000", "s"],
    ]


def test_several_pairs_have_mean_and_standard_deviation() -> None:
    rows = [{"ncc_before": 0.0, "ncc_after": value} for value in (0.2, 0.4)] + [{"status": "failed"}]
    assert "0.300 ± 0.141" in figures_text(rows)
    assert "(n" not in figures_text(rows)


def test_a_figure_that_some_pairs_lack_has_its_number_of_pairs() -> None:
    rows = [{"ncc_before": 0.1, "ncc_after": 0.5, "status": "done"} for _ in range(4)]
    rows[0] |= {"tre_mean_before": 9.0, "tre_mean_after": 1.0}
    rows[1] |= {"tre_mean_before": 7.0, "tre_mean_after": 1.0}
    _, ncc, tre = figures_text([*rows, {"status": "missing"}]).splitlines()
    assert re.sub(" +", " ", ncc) == "NCC 0.100 ± 0.000 0.500 ± 0.000"
    assert re.sub(" +", " ", tre) == "TRE, mean 8.000 ± 1.414 (n = 2) 1.000 ± 0.000 (n = 2) mm"


def test_no_figures() -> None:
    assert figures_text([{"name": "a", "status": "failed"}]) == ""
