# SPDX-License-Identifier: Apache-2.0
"""Heads of adult mice in micro-CT, one a strain, 45 landmarks.

The spacing is that of a mouse, 0.141 mm. Methods with settings for human anatomy need spacing and landmarks times ten.
"""

from __future__ import annotations

import json
from pathlib import Path

from regplugins.datasets.base import DataSet, Source, checksums, github
from regplugins.datasets.datalist import pair, prepare_files

STRAINS = {
    "tune": ("129S1_SVLMJ_", "AKR_J_", "B6AF1_J_", "BALB_CJ_", "C3H_HEJ_", "C57BL_6NJ_"),
    "report": ("CAF1_J_", "CB6F1_J_", "CBA_J_", "DBA_2J_", "MRL_MPJ_", "SJL_J_"),
}
# Random ordered pairs of six strains: place of the fixed and of the moving one.
PAIRS = "13 34 32 05 21 35 30 40 53 03 45 01 43 14 54 04 50 52 31 24"

_REPOSITORY = "muratmaga/mouse_CT_atlas"
# Commits that hold the images, landmarks of most strains, and landmarks of those whose name lacks the last underscore.
_IMAGES = "2c782f6e2786a36d5a8fa0c73ecf3eccc7786898"
_LANDMARKS = "26e78989baf63b6954937e1113c5ac7981d143d7"
_SHORT_NAMES = "f79405e7333a2b3ee145fc4978aae6754d6c4244"
_SHORT = ("BALB_CJ_", "C3H_HEJ_", "CB6F1_J_", "MRL_MPJ_", "SJL_J_")


def markups_to_csv(published: Path, path: Path) -> None:
    """Write the points of a Slicer markups file (JSON, LPS mm) as CSV with four decimals."""
    points = json.loads(published.read_text(encoding="utf-8"))["markups"][0]["controlPoints"]
    rows = (",".join([*(f"{value:.4f}" for value in point["position"]), point["label"]]) for point in points)
    path.write_text("\n".join(["x,y,z,name", *rows]) + "\n", encoding="utf-8")


def _sources(strain: str) -> dict[str, Source]:
    short = strain in _SHORT
    name = strain.removesuffix("_") if short else strain
    landmarks = github(_REPOSITORY, _SHORT_NAMES if short else _LANDMARKS, f"data/target_LMs/{name}.mrk.json")
    return {
        f"{strain}.nii.gz": Source(github(_REPOSITORY, _IMAGES, f"data/targets/{strain}.nii.gz")),
        f"{strain}.csv": Source(landmarks, markups_to_csv),
    }


def _pairs(strains: tuple[str, ...]) -> list[dict[str, str]]:
    chosen = [[strains[int(place)] for place in both] for both in PAIRS.split()]
    return [pair(f"{fixed}_to_{moving}", fixed, moving, landmarks=".csv") for fixed, moving in chosen]


DATASET = DataSet(
    name="mouse_ct",
    title="micro-CT of the heads of 12 mice, 45 landmarks",
    license="GPL-3.0 (Maga, Tustison, Avants, J Anat 2017)",
    origin=f"github.com/{_REPOSITORY}",
    prepare=prepare_files({section: _pairs(strains) for section, strains in STRAINS.items()}),
    checksums=checksums("mouse_ct"),
    sources={
        file: source for strains in STRAINS.values() for name in strains for file, source in _sources(name).items()
    },
)
