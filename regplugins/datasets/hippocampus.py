# SPDX-License-Identifier: Apache-2.0
"""Hippocampus: T1 MR crops of the Medical Segmentation Decathlon (Task04) with two labels."""

from __future__ import annotations

from pathlib import Path

from regplugins.datasets.base import DataSet, Source, checksums, github
from regplugins.datasets.datalist import write_datalist

# Cases that the shipped weights have never seen (test), and cases that chose among training runs (validation). All
# others train.
TEST_CASES = {
    *(15, 24, 34, 46, 50, 56, 57, 83, 84, 90, 92, 114, 124, 143, 150, 171, 172, 174, 181, 210, 228, 229, 244, 252),
    *(259, 260, 263, 318, 328, 337, 349, 350, 351, 353, 354, 366, 374, 380, 383, 387),
}
VALIDATION_CASES = {26, 42, 60, 88, 104, 133, 154, 166, 189, 207, 223, 234, 253, 277, 295, 309, 330, 355, 373, 394}


def prepare_hippocampus(source: str | Path, target: str | Path) -> Path:
    """Write ``datalist.json`` for the images and labels of a folder.

    Args:
        source: folder with ``images`` and ``labels`` (or ``imagesTr`` and ``labelsTr``, as in the Decathlon's archive)
            of files ``hippocampus_<number>.nii.gz``.
        target: folder for the datalist, made if need be.

    Returns:
        The datalist: sections ``training``, ``validation`` and ``test`` of records with ``image`` and ``label``.

    Raises:
        FileNotFoundError: if the folders are missing, an image has no label, or a section has no image.
    """
    source = Path(source).resolve()
    for images, labels in (("imagesTr", "labelsTr"), ("images", "labels")):
        if (source / images).is_dir() and (source / labels).is_dir():
            break
    else:
        raise FileNotFoundError(f"{source}: has neither imagesTr and labelsTr nor images and labels")
    sections: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    # The Decathlon's archive has resource forks of macOS beside the images: ._hippocampus_001.nii.gz
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
    return write_datalist(sections, Path(target))


_CHECKSUMS = checksums("hippocampus")

DATASET = DataSet(
    name="hippocampus",
    title="T1 MR crops of 220 hippocampi, anterior and posterior part labeled",
    license="CC BY-SA 4.0 (Medical Segmentation Decathlon)",
    origin="Medical Segmentation Decathlon, Task04_Hippocampus; github.com/udacity/nd320-c3-3d-imaging-starter",
    prepare=prepare_hippocampus,
    checksums=_CHECKSUMS,
    sources={
        name: Source(github("udacity/nd320-c3-3d-imaging-starter", "HEAD", f"data/TrainingSet/{name}"))
        for name in _CHECKSUMS
    },
)
