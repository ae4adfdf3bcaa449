# SPDX-License-Identifier: Apache-2.0
"""One pair of brains with a known warp through the networks that a paper compares, side by side.

    python docs/figures/brain_networks.py fusions --dataset_dir D --runs R --output F.png [--pair NAME]

``fusions`` are those of ``brain_mr_gated_gradient``, ``supervisions`` those of ``brain_mr_dual_supervision``;
``R/<network>/checkpoints/model.pt`` are the networks, trained by the bundle's ``train.json``. Above: the images in an
axial plane; below: how far each transform is from the true one, in mm.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import fire
import matplotlib
import monai.bundle
import torch
from matplotlib.figure import Figure
from torch import Tensor

from regplugins.checks import choice
from regplugins.data import read_datalist
from regplugins.io import atomic, load_image, load_label, read_chain, read_displacement
from regplugins.report.panels import gray
from regplugins.report.planes import display_planes
from regplugins.report.windows import image_windows
from regplugins.spatial import Grid, SpatialTransform

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


@dataclass(frozen=True)
class Comparison:
    """Networks of one bundle.

    Args:
        bundle: its folder.
        names: what a network is called, by its folder.
        key: of ``inference.json``, what is set to the name of a network's folder; None: all are built alike.
    """

    bundle: str
    names: Mapping[str, str]
    key: str | None = None


COMPARISONS = {
    "fusions": Comparison(
        "brain_mr_gated_gradient",
        {"none": "VM", "concat": "VM(concat)", "average": "average", "gated": "gated"},
        "network_def#fusion",
    ),
    "supervisions": Comparison(
        "brain_mr_dual_supervision", {"fixed": "fixed image's", "moving": "moving image's", "dual": "both"}
    ),
}
LARGEST = 8.0  # mm, the end of the color scale


def main(comparison: str, dataset_dir: str, runs: str, output: str, pair: str = "BraTSReg_002_00_flair_t1c_3") -> None:
    """Register the pair with each network and draw what comes out."""
    compared = choice("comparison", comparison, COMPARISONS)
    (record,) = (r for r in read_datalist(Path(dataset_dir) / "datalist.json", "test") if r["name"] == pair)
    fixed = load_image(record["fixed"])
    grid = Grid.from_image(fixed)
    truth = read_displacement(record["truth"])
    mask = load_label(record["fixed_mask"]).as_tensor() > 0
    center = tuple(int(k) for k in mask[0].nonzero().double().mean(dim=0).round())
    plane = display_planes(grid, center)[0]

    images = {"fixed": fixed.as_tensor()}
    errors: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        for network, name in compared.names.items():
            written = Path(folder) / network
            _register(compared, network, record, Path(runs), written)
            affine = str(written / "transform_0GenericAffine.mat")
            ways = {"affine": [affine], name: [str(written / "transform_1Warp.nii.gz"), affine]}
            errors |= {way: _error(read_chain(files), truth, grid) for way, files in ways.items()}
            images[name] = load_image(written / "warped.nii.gz").as_tensor()
    moving = load_image(record["moving"])

    columns = ["fixed", "affine", *compared.names.values()]
    images["affine"] = moving.as_tensor()
    figure = Figure(figsize=(2 * len(columns), 4.9), dpi=150, layout="constrained")
    panels = figure.subplots(2, len(columns))
    colors = matplotlib.colormaps["magma"]
    for column, name in enumerate(columns):
        slices = plane.take(images[name])[0]
        panels[0][column].imshow(
            gray(slices, image_windows(slices, slices)[0]), cmap="gray", extent=plane.extent, vmin=0, vmax=1
        )
        panels[0][column].set_title({"affine": "moving"}.get(name, name), fontsize=11)
        if name in errors:
            shown = panels[1][column].imshow(
                plane.take(errors[name] * mask)[0], cmap=colors, extent=plane.extent, vmin=0, vmax=LARGEST
            )
            values = errors[name][mask]
            label = f"{'after init affine' if name == 'affine' else name}: {values.mean():.2f} mm"
            panels[1][column].set_title(label, fontsize=10)
            print(f"{name}: {values.mean():.2f} mm, 95 %: {values.quantile(0.95):.2f} mm")
    for panel in panels.flat:
        panel.set_axis_off()
    figure.colorbar(shown, ax=panels[1], shrink=0.9, label="error (mm)", extend="max")
    with atomic(output) as temporary:
        figure.savefig(temporary)


def _register(compared: Comparison, network: str, record: dict[str, str], runs: Path, output_dir: Path) -> None:
    bundle = BUNDLES / compared.bundle
    monai.bundle.run(
        config_file=str(bundle / "configs/inference.json"),
        bundle_root=str(bundle),
        models_dir=str(runs / network / "checkpoints"),
        fixed=record["fixed"],
        moving=record["moving"],
        fixed_mask=record["fixed_mask"],
        output_dir=str(output_dir),
        **({compared.key: network} if compared.key else {}),
    )


def _error(found: SpatialTransform, truth: SpatialTransform, grid: Grid) -> Tensor:
    """``(1, *spatial)``: mm between where the two transforms take each voxel."""
    return (found.map_grid(grid) - truth.map_grid(grid)).norm(dim=-1)[None].to(torch.float32)


if __name__ == "__main__":
    fire.Fire(main)
