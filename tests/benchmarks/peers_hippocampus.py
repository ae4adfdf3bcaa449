# SPDX-License-Identifier: Apache-2.0
"""ANTs on the hippocampus bundle's test pairs, measured with the same code as the bundle's evaluate.json.

    python tests/benchmarks/peers_hippocampus.py --dataset_dir D --output_dir O [--method syn_mi|paper_cc] [--first 40]

Needs the ``benchmark`` extra (antspyx). ``syn_mi`` is ANTs' default SyN with mutual information; ``paper_cc`` the
command of Li and Fan (2018): cross-correlation of radius 2, SyN[0.25], Gauss[3,0], 100x100x10 iterations, affine first,
histogram matching. Images meet by the centres of their fields of view, as in the bundle. Writes ``<method>.csv`` and
``<method>.json`` (count, mean, standard deviation).
"""

from __future__ import annotations

import csv
import tempfile
import time
from pathlib import Path
from typing import Any

import ants
import fire
import numpy as np
import torch
from tqdm import tqdm

from regplugins.data import load_image, load_label, ordered_pairs, read_datalist
from regplugins.io import read_displacement, write_transform
from regplugins.metrics import folding_percent, label_overlap, sd_log_jacobian
from regplugins.prealign import initial_transform
from regplugins.report import write_json
from regplugins.report.table import summarise
from regplugins.spatial import Grid, jacobian_determinant

METHODS: dict[str, dict[str, Any]] = {
    "syn_mi": {"type_of_transform": "SyN", "aff_metric": "mattes", "syn_metric": "mattes"},
    "paper_cc": {
        "type_of_transform": "SyN",
        "syn_metric": "CC",
        "syn_sampling": 2,
        "grad_step": 0.25,
        "flow_sigma": 3,
        "total_sigma": 0,
        "reg_iterations": (100, 100, 10),
        "aff_iterations": (100, 100, 100),
        "aff_shrink_factors": (4, 2, 1),
        "aff_smoothing_sigmas": (2, 1, 0),
    },
}


def main(
    dataset_dir: str,
    output_dir: str,
    method: str = "syn_mi",
    pairs: int = 200,
    seed: int = 0,
    first: int | None = None,
) -> None:
    """Register the pairs, or the first of them, and write the table."""
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    records = ordered_pairs(read_datalist(Path(dataset_dir) / "datalist.json", "test"), pairs, seed)[:first]
    rows = [row(record, METHODS[method], method) for record in tqdm(records)]
    with (output / f"{method}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_json(summarise(rows), output / f"{method}.json")
    print(summarise(rows))


def row(record: dict[str, str], options: dict[str, Any], method: str) -> dict[str, Any]:
    """Register one pair: its figures."""
    fixed, moving, moving_label = (ants.image_read(record[key]) for key in ("fixed", "moving", "moving_label"))
    if method == "paper_cc":
        moving = ants.histogram_match_image(moving, fixed)
    image, label = load_image(record["fixed"]), load_label(record["fixed_label"])
    grids = [Grid.from_image(load_image(record[key])) for key in ("fixed", "moving")]
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "fov.mat"
        volume = torch.zeros(1)  # "fov" looks at the grids alone
        write_transform(initial_transform("fov", volume, grids[0], volume, grids[1]), start)
        begin = time.perf_counter()
        result = ants.registration(fixed, moving, initial_transform=str(start), outprefix=f"{folder}/out", **options)
        seconds = time.perf_counter() - begin
        warped = ants.apply_transforms(fixed, moving_label, result["fwdtransforms"], interpolator="nearestNeighbor")
        field = next(path for path in result["fwdtransforms"] if path.endswith(".nii.gz"))
        ddf = read_displacement(field).to_ddf()[None]
    prediction = torch.from_numpy(np.rint(warped.numpy()).astype(np.int32))[None]
    scores = label_overlap(prediction, label.as_tensor(), Grid.from_image(image).spacing.tolist())
    figures: dict[str, Any] = {"name": record["name"]}
    for name in ("dice", "hd95", "asd"):
        figures[f"{name}_mean_after"] = float(np.mean([score[name] for score in scores.values()]))
        figures |= {f"{name}_{k}_after": score[name] for k, score in scores.items()}
    determinant = jacobian_determinant(ddf)
    figures |= {"folding_percent": float(folding_percent(determinant))}
    return figures | {"sd_log_jacobian": float(sd_log_jacobian(determinant)), "seconds": seconds}


if __name__ == "__main__":
    fire.Fire(main)
