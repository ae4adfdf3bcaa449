# SPDX-License-Identifier: Apache-2.0
"""Make data like a heart's cycle of real slices of brains: two phases of one contrast, a smooth motion between them.

For ``brain_mr_fire``'s ``cine.json``, where no cine MR is at hand; ``D`` is what ``prepare brains`` wrote::

    python tests/benchmarks/phases_of_slices.py --source D --output_dir P
"""

from __future__ import annotations

import json
from pathlib import Path

import fire

from regplugins.data import RandomWarp, read_datalist
from regplugins.datasets.datalist import PairWriter
from regplugins.datasets.warped_pairs import write_warped
from regplugins.io import load_image, load_label, write_image
from regplugins.spatial import Grid, resample_to_grid

MOTION = RandomWarp(8.0, (24.0, 48.0), rotation=0.0, translation=0.0, scaling=0.0)


def main(source: str, output_dir: str) -> None:
    """Write ``datalist.json`` with the sequences ``ED`` and ``ES`` in ``training``, and pairs of slices of known truth.

    Args:
        source: folder of ``prepare brains``; its T1 with contrast is the contrast of both phases.
        output_dir: folder for what is written.
    """
    list_of_brains, target = Path(source) / "datalist.json", Path(output_dir).resolve()
    target.mkdir(parents=True, exist_ok=True)
    training = []
    for number, record in enumerate(read_datalist(list_of_brains, "training")):
        if record["sequence"] != "t1c":
            continue
        image = load_image(record["image"])
        grid = Grid.from_image(image)
        moved = target / f"{record['subject']}_ES.nii.gz"
        write_image(resample_to_grid(image, grid, MOTION.set_random_state(number)(grid)), grid, moved)
        for phase, path in (("ED", record["image"]), ("ES", str(moved))):
            training.append({"image": path, "subject": record["subject"], "sequence": phase})
    sections = {"training": training}
    for section, origin in (("validation", "slices_validation"), ("test", "slices")):
        sections[section] = []
        for record in read_datalist(list_of_brains, origin):
            image, classes = load_image(record["moving"]), load_label(record["moving_label"])
            writer = PairWriter(target, f"{record['name']}_phases")
            inside = (classes > 0).to(classes.dtype)
            write_warped(writer, image, image, inside, Grid.from_image(image), MOTION, classes)
            sections[section].append(writer.record)
    (target / "datalist.json").write_text(json.dumps(sections, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    fire.Fire(main)
