# SPDX-License-Identifier: Apache-2.0
"""The page that ``make gpu`` writes, tried on the CPU at small sizes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_row_is_measured(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--shape", "32,36,32", "--large", "40,36,32", "--repeats", "1"]
    command = [sys.executable, "tests/benchmarks/gpu.py", *words, "--output", str(tmp_path / "gpu.md")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\|(.+)\|$", (tmp_path / "gpu.md").read_text(encoding="utf-8"), re.MULTILINE)
    cells = [row.split("|") for row in rows if "×" in row]
    assert {row[0].strip("`") for row in cells} >= {
        path.parents[1].name for path in ROOT.glob("bundles/*/configs/train.json")
    }
    assert len([row for row in cells if row[1] == "40 × 36 × 32"]) == 6
    for _, _, first, second, ratio, peak in cells:
        assert float(ratio) == pytest.approx(float(first) / float(second), rel=0.02)
        assert float(second) > 0 and peak == "–"
