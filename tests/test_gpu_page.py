# SPDX-License-Identifier: Apache-2.0
"""The page that ``make gpu`` writes, tried on the CPU at small sizes."""

import importlib
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_row_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests/benchmarks")
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    sizes = {"shape": (32, 36, 32), "large": (40, 36, 32), "scale": 0.5}
    importlib.import_module("gpu").main(device="cpu", repeats=1, threads=1, output=str(tmp_path / "gpu.md"), **sizes)
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    rows = re.findall(r"^\|(.+)\|$", (tmp_path / "gpu.md").read_text(encoding="utf-8"), re.MULTILINE)
    cells = [row.split("|") for row in rows if "×" in row]
    assert {row[0].strip("`") for row in cells} >= {
        path.parents[1].name for path in ROOT.glob("bundles/*/configs/train.json")
    }
    assert len([row for row in cells if row[1] == "40 × 36 × 32"]) == 6
    for _, _, first, second, ratio, peak in cells:
        assert float(ratio) == pytest.approx(float(first) / float(second), rel=0.02)
        assert float(second) > 0 and peak == "–"
