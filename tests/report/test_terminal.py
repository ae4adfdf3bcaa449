# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

from regplugins.report.terminal import figures_text


def test_a_pair() -> None:
    row = {"name": "a", "ncc_before": 0.71, "ncc_after": 0.912, "tre_mean_before": 16.05, "tre_mean_after": 1.5}
    lines = figures_text([row | {"dice_mean_before": None, "folding_percent": 0.25, "seconds": 123.4}]).splitlines()
    assert [line.split() for line in lines] == [
        ["before", "after"],
        ["NCC", "0.710", "0.912"],
        ["TRE", "16.050", "1.500", "mm"],
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


def test_no_figures() -> None:
    assert figures_text([{"name": "a", "status": "failed"}]) == ""
