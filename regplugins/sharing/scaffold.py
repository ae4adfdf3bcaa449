# SPDX-License-Identifier: Apache-2.0
"""A bundle to begin a method with: the shared configurations, untrained weights, and made-up images."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from regplugins.data import RandomWarp
from regplugins.io import atomic_folder, output_folder, sha256, write_image
from regplugins.io.files import PathLike
from regplugins.sharing.skeleton import SOURCE, build, format_json
from regplugins.spatial import Grid, resample, resample_labels

_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+){2,}")
_SHAPE = (36, 48, 36)
_CASES = {"training": 6, "validation": 3, "test": 3}


def new(folder: PathLike) -> Path:
    """Lay out a bundle that runs, trains on made-up images in its folder ``data``, and passes every check.

    The checks want it listed by ``python docs/model_index.py``. Its name is <anatomy>_<modality>_<method>.

    Raises:
        FileExistsError: if there is such a folder.
        ValueError: if no bundle can have the name.
    """
    folder = output_folder(folder)
    if not _NAME.fullmatch(folder.name):
        raise ValueError(f"{folder.name}: expected <anatomy>_<modality>_<method>, of lower-case letters and digits")
    with atomic_folder(folder) as root:
        for name in ("configs", "docs", "models", "sample", "data"):
            (root / name).mkdir(parents=True)
        text = importlib.metadata.distribution("regplugins").read_text("licenses/LICENSE")
        if text is None:
            raise FileNotFoundError("the installed regplugins has no LICENSE; install it with pip")
        (root / "LICENSE").write_text(text, encoding="utf-8")
        differences = _differences(root.name)
        _write_configurations(root, differences)
        _write_images(root)
        _write_weights(root)
        differences["metadata"]["weights"] = {
            "models/model.pt": {"description": "not trained", "sha256": sha256(root / "models/model.pt")}
        }
        _write_configurations(root, differences)
        _write_texts(root)
    return folder


def _differences(name: str) -> dict[str, Any]:
    """Differences of the bundle from the shared configurations."""
    pairs = _CASES["test"] * (_CASES["test"] - 1)
    return {
        "metadata": {
            "version": "0.0.1",
            "changelog": {"0.0.1": "laid out by regplugins new, not trained"},
            "name": name.replace("_", " "),
            "task": "Registration of made-up images, until there is a method",
            "description": "Laid out by regplugins new: the shared configurations, weights that were not trained.",
            "data_source": "made-up images; terms in docs/data_license.txt",
            "trains_on": "images",
            "label_classes": "the two structures of the made-up images",
            "references": ["None yet: here goes the paper of the method"],
        },
        "inference": {},
        "inference_trt": {},
        "multi_gpu_inference": {},
        "refine": {},
        "train": {"val_pairs": pairs},
        "multi_gpu_train": {},
        "evaluate": {"eval_pairs": pairs},
    }


def _write_configurations(root: Path, differences: Mapping[str, Any]) -> None:
    (root / SOURCE).write_text(format_json(differences) + "\n", encoding="utf-8")
    build(root)


def _write_images(root: Path) -> None:
    """The sample pair, and a data set."""
    grid = Grid(_SHAPE, torch.eye(4, dtype=torch.float64))
    image, label = _anatomy(grid)
    warps = RandomWarp(displacement=6.0, control_spacing=(12.0, 24.0), rotation=8.0, translation=4.0)
    warps.set_random_state(0)

    def case(folder: Path, image_name: str, label_name: str) -> dict[str, str]:
        warp = warps(grid)
        write_image(resample(image, grid, grid, warp), grid, folder / image_name)
        write_image(resample_labels(label, grid, grid, warp), grid, folder / label_name, np.uint8)
        return {"image": image_name, "label": label_name}

    counts = iter(range(sum(_CASES.values())))
    sections = {
        section: [
            case(root / "data", f"image_{k}.nii.gz", f"label_{k}.nii.gz") for k in itertools.islice(counts, number)
        ]
        for section, number in _CASES.items()
    }
    (root / "data/datalist.json").write_text(json.dumps(sections, indent=4) + "\n", encoding="utf-8")
    for side in ("fixed", "moving"):
        case(root / "sample", f"{side}.nii.gz", f"{side}_label.nii.gz")


def _anatomy(grid: Grid) -> tuple[Tensor, Tensor]:
    """An image ``(1, *shape)`` of two structures in a textured body, and their labels."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, 9, 12, 9, generator=random)
    texture = torch.nn.functional.interpolate(noise, grid.shape, mode="trilinear", align_corners=True)[0]
    places = (grid.coordinates() - grid.center) / torch.tensor(_SHAPE) * 2
    body = places.norm(dim=-1) < 0.9
    front = ((places - torch.tensor([0.05, 0.25, 0.0])) / torch.tensor([0.4, 0.3, 0.35])).norm(dim=-1) < 1
    back = ((places - torch.tensor([-0.05, -0.25, 0.1])) / torch.tensor([0.3, 0.4, 0.3])).norm(dim=-1) < 1
    label = torch.where(front, 1, torch.where(back, 2, 0)).to(torch.uint8)[None]
    image = 300.0 * body + 250.0 * front + 150.0 * (back & ~front) + 60.0 * texture[0] * body
    return image.float()[None], label


def _write_weights(root: Path) -> None:
    parser = ConfigParser()
    parser.read_config(root / "configs/train.json")
    parser["bundle_root"] = str(root)
    torch.manual_seed(0)
    torch.save(parser.get_parsed_content("network_def").state_dict(), root / "models/model.pt")


def _write_texts(root: Path) -> None:
    terms = "Made up by a program (regplugins new). In the public domain (CC0 1.0)."
    names = ["fixed.nii.gz", "fixed_label.nii.gz", "moving.nii.gz", "moving_label.nii.gz"]
    entries = "\n\n".join(f"{name}\n    {terms}" for name in names)
    (root / "sample/TERMS.txt").write_text(f"The sample pair\n\n{entries}\n", encoding="utf-8")
    (root / "docs/data_license.txt").write_text(
        f"Images in sample/ and data/: {terms}\nWeights: not trained on anything.\n", encoding="utf-8"
    )
    (root / "docs/README.md").write_text(
        f"""# {root.name}

Laid out by `regplugins new`. The weights were not trained; the images in `sample/` and `data/` are made up.
`docs/adding_a_bundle.md` of the regplugins repository says what to change, and in which order.

```bash
python -m monai.bundle run --config_file configs/train.json --max_epochs 10 --pairs_per_epoch 30 --val_interval 10 \\
    --learning_rate 0.003                                                            # on data/
python -m monai.bundle run --config_file "['configs/train.json','configs/evaluate.json']" \\
    --models_dir output/checkpoints
python -m monai.bundle run --config_file configs/inference.json                      # the sample pair, into output/
```
""",
        encoding="utf-8",
    )
