# SPDX-License-Identifier: Apache-2.0
"""The hippocampus task of the Medical Segmentation Decathlon (Task04) as a datalist."""

from __future__ import annotations

import json
from pathlib import Path

from regplugins.io import atomic


def _cases(numbers: str) -> frozenset[int]:
    return frozenset(int(number) for number in numbers.split())


# Which cases the shipped weights have never seen (test) and which chose among training runs (validation). All others
# train.
TEST_CASES = _cases(
    "15 24 34 46 50 56 57 83 84 90 92 114 124 143 150 171 172 174 181 210 228 229 244 252 259 260 263 318 "
    "328 337 349 350 351 353 354 366 374 380 383 387"
)
VALIDATION_CASES = _cases("26 42 60 88 104 133 154 166 189 207 223 234 253 277 295 309 330 355 373 394")


def prepare_hippocampus(source: str | Path, target: str | Path) -> Path:
    """Write ``datalist.json`` for the task's folder as downloaded, for instance by ``monai.apps.DecathlonDataset``.

    Args:
        source: folder with ``imagesTr`` and ``labelsTr`` (or ``images`` and ``labels``) of files
            ``hippocampus_<number>.nii.gz``.
        target: folder for the datalist, made if need be.

    Returns:
        The datalist: sections ``training``, ``validation`` and ``test`` of records with ``image`` and ``label``.

    Raises:
        FileNotFoundError: no such folders, or an image without its label.
    """
    source, target = Path(source).resolve(), Path(target)
    for images, labels in (("imagesTr", "labelsTr"), ("images", "labels")):
        if (source / images).is_dir() and (source / labels).is_dir():
            break
    else:
        raise FileNotFoundError(f"{source}: has neither imagesTr and labelsTr nor images and labels")
    sections: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    # The Decathlon's archives carry the resource forks of the machine they were packed on: ._hippocampus_001.nii.gz
    for image in sorted((source / images).glob("hippocampus_*.nii.gz")):
        label = source / labels / image.name
        if not label.is_file():
            raise FileNotFoundError(f"{label}: no label for {image.name}")
        number = int(image.name.removeprefix("hippocampus_").removesuffix(".nii.gz"))
        section = "test" if number in TEST_CASES else "validation" if number in VALIDATION_CASES else "training"
        sections[section].append({"image": str(image), "label": str(label)})
    if not all(sections.values()):
        counts = {name: len(records) for name, records in sections.items()}
        raise FileNotFoundError(f"{source / images}: images of every section expected, found {counts}")
    target.mkdir(parents=True, exist_ok=True)
    with atomic(target / "datalist.json") as temporary:
        temporary.write_text(json.dumps(sections, indent=2) + "\n", encoding="utf-8")
    return target / "datalist.json"
