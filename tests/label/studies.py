# SPDX-License-Identifier: Apache-2.0
"""Folder of mostly annotated images in the layout of MONAI Label's local datastore."""

import os
from pathlib import Path

import numpy as np

from regplugins.data import RandomWarp, read_datalist
from regplugins.io import load_image, load_label, write_image
from regplugins.metrics import label_overlap, mean_overlap
from regplugins.spatial import Grid, resample, resample_labels

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles/hippocampus_mr_multires_fcn"
ANNOTATED = ("case_a", "case_b", "case_c", "case_d")
NEW = "new"


class Folder:
    """A datastore as MONAI Label's local one: ids are the names of files, final labels lie in ``labels/final``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list_images(self) -> list[str]:
        return [path.name.removesuffix(".nii.gz") for path in self.folder.glob("*.nii.gz")]

    def get_image_uri(self, image_id: str) -> str:
        return str(self.folder / f"{image_id}.nii.gz")

    def datalist(self) -> list[dict[str, str]]:
        labels = {name: self.folder / f"labels/final/{name}.nii.gz" for name in self.list_images()}
        pairs = [(self.get_image_uri(name), label) for name, label in labels.items() if label.exists()]
        return [{"image": image, "label": str(label)} for image, label in pairs]


def write_studies(folder: Path, truth: Path) -> None:
    """Four annotated images and one, ``new``, without a label, the true one of which is ``truth``.

    They are crops of the hippocampus of five people where ``REGPLUGINS_HIPPOCAMPUS`` names the folder of that data set
    (``prepare hippocampus``), of those that training has not seen; else five random warps of the bundle's sample.
    """
    (folder / "labels/final").mkdir(parents=True)
    names = (*ANNOTATED, NEW)
    dataset = os.environ.get("REGPLUGINS_HIPPOCAMPUS")
    if dataset:
        records = read_datalist(Path(dataset) / "datalist.json", "test")[: len(names)]
        images = [(load_image(record["image"]), load_label(record["label"])) for record in records]
    else:
        images = [(load_image(BUNDLE / "sample/moving.nii.gz"), load_label(BUNDLE / "sample/moving_label.nii.gz"))] * 5
    for seed, (name, (image, label)) in enumerate(zip(names, images, strict=True)):
        grid = Grid.from_image(image)
        values, labels = image.as_tensor(), label.as_tensor()
        if not dataset:
            warp = RandomWarp(6.0, (16.0, 24.0)).set_random_state(seed=seed)(grid)
            values, labels = resample(values, grid, grid, warp), resample_labels(labels, grid, grid, warp)
        write_image(values, grid, folder / f"{name}.nii.gz")
        write_image(labels, grid, truth if name == NEW else folder / f"labels/final/{name}.nii.gz", np.uint8)


def dice(label: str | Path, truth: str | Path) -> float:
    """Mean Dice of a label file, on any grid, with the true one."""
    found, expected = load_label(label), load_label(truth)
    grid = Grid.from_image(expected)
    moved = resample_labels(found.as_tensor(), Grid.from_image(found), grid)
    return mean_overlap(label_overlap(moved, expected.as_tensor(), grid.spacing.tolist()))["dice"]
