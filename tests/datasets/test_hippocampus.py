# SPDX-License-Identifier: Apache-2.0
"""The Decathlon's folder as a datalist."""

import json
import re
from pathlib import Path

import pytest

from regplugins.data import read_datalist
from regplugins.datasets import prepare_hippocampus
from regplugins.datasets.hippocampus import TEST_CASES, VALIDATION_CASES

TRAINING_CASES = [1, 3, 4]


@pytest.fixture(params=[("imagesTr", "labelsTr"), ("images", "labels")], ids=["Decathlon", "plain"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for name in request.param:
        folder = tmp_path / "Task04" / name
        folder.mkdir(parents=True)
        for case in (*TRAINING_CASES, *sorted(TEST_CASES)[:2], *sorted(VALIDATION_CASES)[:1]):
            (folder / f"hippocampus_{case:03d}.nii.gz").touch()
            (folder / f"._hippocampus_{case:03d}.nii.gz").touch()  # as the archive has them
    return tmp_path / "Task04"


def cases(path: Path, section: str) -> list[int]:
    records = read_datalist(path, section)
    assert all(Path(record[key]).is_file() for record in records for key in ("image", "label"))
    assert all(Path(record["image"]).name == Path(record["label"]).name for record in records)
    return [int(re.findall(r"\d+", Path(record["image"]).name)[0]) for record in records]


def test_every_case_in_its_section(source: Path, tmp_path: Path) -> None:
    path = prepare_hippocampus(source, tmp_path / "new" / "data")
    assert path == tmp_path / "new" / "data" / "datalist.json"
    assert cases(path, "training") == TRAINING_CASES
    assert cases(path, "test") == sorted(TEST_CASES)[:2]
    assert cases(path, "validation") == sorted(VALIDATION_CASES)[:1]
    assert set(json.loads(path.read_text())) == {"training", "validation", "test"}


def test_an_image_without_a_label(source: Path, tmp_path: Path) -> None:
    next(source.glob("labels*/hippocampus_003.nii.gz")).unlink()
    with pytest.raises(FileNotFoundError, match=r"hippocampus_003\.nii\.gz: no label"):
        prepare_hippocampus(source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_another_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="imagesTr"):
        prepare_hippocampus(tmp_path, tmp_path / "data")


def test_no_case_is_in_two_sections() -> None:
    assert len(TEST_CASES) == 40 and len(VALIDATION_CASES) == 20
    assert not TEST_CASES & VALIDATION_CASES
