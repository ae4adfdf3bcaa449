# SPDX-License-Identifier: Apache-2.0
"""Training of a bundle on the images of a datastore."""

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
from regplugins.label.propagation import Datastore, annotated_cases
from regplugins.label.requests import device

# Keys of train.json that a client may set, with checks of their values: a configuration would execute strings that
# begin with "$", and mappings with a "_target_".
OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "max_epochs": whole,
    "pairs_per_epoch": whole,
    "val_interval": whole,
    "batch_size": whole,
    "learning_rate": positive,
    "seed": partial(whole, minimum=0),
    "device": lambda _, value: device(value),
}
_MIN_IMAGES = 2


def trainable(bundle: Path) -> bool:
    """True if a bundle trains on single images, as a datastore has them; others need two sequences of a patient."""
    return bool(read_json(bundle / "configs/metadata.json").get("trains_on") == "images")


def train(
    bundle: Path, datastore: Datastore, request: Mapping[str, Any], work: Path, held_out: float = 0.2
) -> dict[str, Any]:
    """Train a bundle on the images of a datastore, and validate on some of the annotated ones.

    Args:
        bundle: folder of the bundle.
        datastore: of the server.
        request: may have keys of ``OPTIONS``; other keys are ignored.
        work: folder for ``datalist.json``, outputs of the training, and finally ``model.pt``.
        held_out: fraction of the annotated images for validation, at least two images.

    Returns:
        ``training`` and ``validation``, ids; ``model``, the file of the weights.

    Raises:
        ValueError: if there are too few images, or an option has an invalid value.
    """
    options = {key: plain(key, request[key]) for key, plain in OPTIONS.items() if key in request}
    options.setdefault("device", device("cuda"))
    cases, names = annotated_cases(datastore), sorted(datastore.list_images())
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
        logging_file=False,  # keep the server's logging
        bundle_root=str(bundle),
        dataset_dir=str(work),
        output_dir=str(work / "output"),
        val_pairs=min(20, count * (count - 1)),
        **options,
    )
    with atomic(work / "model.pt") as temporary:
        shutil.copyfile(work / "output/checkpoints/model.pt", temporary)
    return {"training": rest, "validation": sorted(held), "model": str(work / "model.pt")}
