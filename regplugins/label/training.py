# SPDX-License-Identifier: Apache-2.0
"""A bundle, trained on the images of a datastore."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np

from regplugins.checks import positive, whole
from regplugins.io import atomic, read_json
from regplugins.label.cases import Datastore, annotated
from regplugins.label.requests import device

# What a client may set, of train.json, and what makes a plain value of it: a configuration runs a text that begins with
# "$", and calls what a mapping names.
OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "max_epochs": whole,
    "pairs_per_epoch": whole,
    "val_interval": whole,
    "batch_size": whole,
    "learning_rate": positive,
    "seed": partial(whole, minimum=0),
    "device": lambda _, value: device(value),
}
# In metadata.json: such a bundle learns from images of one kind, as a datastore has them.
TRAINS_ON = "images"
_MIN_IMAGES = 2


def trainable(bundle: Path) -> bool:
    """Whether a bundle can learn from a list of images, as its metadata say; others want two sequences of a patient."""
    return bool(read_json(bundle / "configs/metadata.json").get("trains_on") == TRAINS_ON)


def train(
    bundle: Path, datastore: Datastore, request: Mapping[str, Any], work: Path, held_out: float = 0.2
) -> dict[str, Any]:
    """Train on the images of a datastore; of the annotated ones some are held out to say which epoch is best.

    Args:
        bundle: the bundle's folder.
        datastore: of the server.
        request: may have keys of ``OPTIONS``, numbers and a device; anything else is not looked at.
        work: folder for ``datalist.json``, what training writes, and, at the end, ``model.pt``.
        held_out: share of the annotated images to validate on, two at least.

    Returns:
        ``training`` and ``validation``, ids; ``model``, the file of the weights.

    Raises:
        ValueError: too few images, or an option that is no number or device.
    """
    options = {key: plain(key, request[key]) for key, plain in OPTIONS.items() if key in request}
    options.setdefault("device", device("cuda"))
    cases, names = annotated(datastore), sorted(datastore.list_images())
    count = max(_MIN_IMAGES, round(held_out * len(cases)))
    if len(cases) < count or len(names) - count < _MIN_IMAGES:
        raise ValueError(
            f"training needs at least {_MIN_IMAGES} annotated images to validate on and {_MIN_IMAGES} others, the "
            f"datastore has {len(names)} images, {len(cases)} of them annotated"
        )
    order = np.random.default_rng(0).permutation(len(cases))
    validation = [cases[i] for i in sorted(order[:count])]
    held = {case.name for case in validation}
    rest = [name for name in names if name not in held]
    sections = {
        "training": [{"image": datastore.get_image_uri(name)} for name in rest],
        "validation": [{"image": case.image, "label": case.label} for case in validation],
    }
    work.mkdir(parents=True, exist_ok=True)
    (work / "datalist.json").write_text(json.dumps(sections), encoding="utf-8")
    monai.bundle.run(
        config_file=str(bundle / "configs/train.json"),
        logging_file=False,  # the server has its own
        bundle_root=str(bundle),
        dataset_dir=str(work),
        output_dir=str(work / "output"),
        val_pairs=min(20, count * (count - 1)),
        **options,
    )
    with atomic(work / "model.pt") as temporary:
        shutil.copyfile(work / "output/checkpoints/model.pt", temporary)
    return {"training": rest, "validation": sorted(held), "model": str(work / "model.pt")}
