# SPDX-License-Identifier: Apache-2.0
"""Input and answer of `head_ct_mr_modality` for each test head: sagittal planes under random intensities.

    python docs/figures/head_modalities.py --dataset_dir D --output docs/images/head_modalities.png

``D`` is what ``prepare heads`` wrote.
"""

from __future__ import annotations

from pathlib import Path

import fire
import torch
from matplotlib.figure import Figure
from monai.bundle import ConfigParser

from regplugins.data import read_datalist
from regplugins.transforms import MODALITIES, RandIntensitiesd

BUNDLE = Path(__file__).resolve().parents[2] / "bundles/head_ct_mr_modality"
VIEWS = 5


def main(dataset_dir: str, output: str, section: str = "modality_test") -> None:
    """Draw a row a head, the head as it is and in ``VIEWS`` random windows; what is wrong in red."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs/inference.json"))
    parser["bundle_root"] = str(BUNDLE)
    network, preprocessing = (parser.get_parsed_content(key) for key in ("network", "preprocessing"))
    records = read_datalist(Path(dataset_dir) / "datalist.json", section)
    figure = Figure(figsize=(1.7 * (VIEWS + 1), 1.95 * len(records)), layout="constrained")
    axes = figure.subplots(len(records), VIEWS + 1)
    change = RandIntensitiesd().set_random_state(0)
    for row, record in zip(axes, records, strict=True):
        image = preprocessing(record)["image"]
        views = [image, *(change({"image": image})["image"] for _ in range(VIEWS))]
        with torch.no_grad():
            probabilities = network.eval().cpu()(torch.stack(views)).softmax(dim=1)
        for axis, view, probability in zip(row, views, probabilities, strict=True):
            found = MODALITIES[int(probability.argmax())]
            axis.imshow(view[0, view.shape[1] // 2].T, origin="lower", cmap="gray", vmin=0, vmax=1)
            color = "black" if found == record["modality"] else "red"
            axis.set_title(f"{found} {float(probability.max()):.2f}", fontsize=9, color=color)
            axis.set_xticks([], [])
            axis.set_yticks([], [])
        row[0].set_ylabel(f"{Path(record['image']).name.removesuffix('.nii.gz')}\n{record['modality']}", fontsize=8)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    fire.Fire(main)
