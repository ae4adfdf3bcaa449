# SPDX-License-Identifier: Apache-2.0
"""Label maps in random contrasts, as training shows them: a map a row, the labels first.

    python docs/figures/random_contrasts.py --dataset_dir D --output F.png

``D`` is what ``prepare brains`` wrote from a folder with ``label_maps``. The last column is a CT where the tissues are
known.
"""

from __future__ import annotations

from pathlib import Path

import fire
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from monai.transforms import Compose, RandAdjustContrast, RandBiasField, RandGaussianNoise

from regplugins.data import RandAxisResolution, RandContrast, RandLabelContrast, RandRemap, read_datalist
from regplugins.data.contrast import STRUCTURE, UNKNOWN
from regplugins.io import atomic
from regplugins.io.images import load_label

# Maps whose terms allow any use, and the axis that is cut.
SHOWN = {"head_t1_colin27": 0, "brain_ct_atlas": 2, "mouse_brain_P56": 1, "limb_010": 2}
CONTRASTS = 5


def main(dataset_dir: str, output: str, seed: int = 0) -> None:
    """Write the figure.

    Args:
        dataset_dir: folder of ``prepare brains``.
        output: PNG file.
        seed: of the contrasts.
    """
    matplotlib.use("Agg")
    records = {record["subject"]: record for record in read_datalist(Path(dataset_dir) / "datalist.json", "contrasts")}
    # As in train.json of the networks for any sequence.
    acquisition = Compose(
        [
            RandAxisResolution(prob=0.3, factor=2.5),
            RandBiasField(prob=0.3, coeff_range=(-0.15, 0.15)),
            RandAdjustContrast(prob=0.5, gamma=(0.7, 1.5)),
            RandGaussianNoise(prob=0.5, std=0.05),
        ]
    )
    figure = Figure(figsize=(2 * (CONTRASTS + 1), 2 * len(SHOWN)), layout="constrained")
    axes = figure.subplots(len(SHOWN), CONTRASTS + 1)
    for row, (subject, axis) in enumerate(SHOWN.items()):
        labels = load_label(records[subject]["label_map"]).as_tensor()
        middle = labels.shape[axis + 1] // 2
        _, ranks = np.unique(labels.select(axis + 1, middle)[0].numpy(), return_inverse=True)
        panels = [(ranks.reshape(labels.select(axis + 1, middle)[0].shape), "nipy_spectral")]
        known = not bool((labels % STRUCTURE == UNKNOWN).any())
        for column in range(CONTRASTS):
            modality = "ct" if known and column == CONTRASTS - 1 else "random"
            contrast = RandContrast(RandLabelContrast([modality]), RandRemap(), acquisition)
            contrast.set_random_state(seed=seed + 100 * row + column)
            contrast.randomize()
            panels.append((contrast({"label_map": labels}).select(axis + 1, middle)[0].numpy(), "gray"))
        for cell, (panel, colors) in zip(axes[row], panels, strict=True):
            cell.imshow(panel.T, cmap=colors, origin="lower", interpolation="nearest")
            cell.axis("off")
    with atomic(Path(output)) as temporary:
        figure.savefig(temporary, dpi=70, format="png")


if __name__ == "__main__":
    fire.Fire(main)
