# SPDX-License-Identifier: Apache-2.0
"""Gates of ``brain_mr_gated_gradient``: figures of pairs with known warps, and a picture of one.

    python docs/figures/gates.py --dataset_dir D --output F.png [--section test] [--pair NAME] [--models_dir R]

Prints one row a pair: error in the brain, mm, of the fused field, of either branch, of their best constant mix, and of
gates that have their mean over the brain everywhere; and the standard deviation of the gates in the brain, the mean of
all six. The picture shows the images, the gate of the image branch, the mean of its three, and the error of each field
in an axial plane.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from torch import Tensor

from regplugins.io import atomic
from regplugins.networks import load_weights
from regplugins.report.panels import gray
from regplugins.report.planes import display_planes
from regplugins.report.windows import image_windows
from regplugins.spatial import DisplacementField, Grid, crop, pad_to_multiple
from regplugins.spatial.resample import resample

BUNDLE = Path(__file__).resolve().parents[2] / "bundles/brain_mr_gated_gradient"
NAMES = ("fused", "gradients", "images")
LARGEST = 6.0  # mm, the end of the color scale


def main(
    dataset_dir: str,
    output: str,
    section: str = "test",
    pair: str = "BraTSReg_002_00_flair_t1c_3",
    models_dir: str | None = None,
) -> None:
    """Print a row a pair and draw the one that is named."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / f"configs/{name}.json") for name in ("train", "evaluate")])
    parser.read_meta(str(BUNDLE / "configs/metadata.json"))
    parser.update({"bundle_root": str(BUNDLE), "dataset_dir": dataset_dir, "eval_section": section})
    network = load_weights(parser.get_parsed_content("network_def"), models_dir or str(BUNDLE / "models")).eval()
    print("name," + ",".join(NAMES) + ",best constant mix,constant gates,gate sd")
    rows = []
    for data in parser.get_parsed_content("validate#dataset"):
        fields, gates = fields_and_gates(network, data["pair"])
        errors = {name: error_vectors(data, field) for name, field in zip(NAMES, fields, strict=True)}
        mask = brain(data)
        lengths = [errors[name][mask].norm(dim=-1).mean() for name in NAMES]
        mixes = torch.linspace(0, 1, 101).double()
        mixed = [(a * errors["images"] + (1 - a) * errors["gradients"])[mask].norm(dim=-1).mean() for a in mixes]
        in_brain = on_fixed_grid(data, gates)[:, mask]
        constant = error_vectors(data, with_constant_gates(network, fields, in_brain.mean(dim=1)))
        values = (*lengths, min(mixed), constant[mask].norm(dim=-1).mean(), in_brain.std(dim=1).mean())
        rows.append([float(value) for value in values])
        print(f"{data['name']}," + ",".join(f"{value:.3f}" for value in rows[-1]))
        if data["name"] == pair:
            draw(data, fields[0], gates, errors, output)
    fused, others = np.array(rows)[:, 0], np.array(rows)[:, 1:5]
    print("mean," + ",".join(f"{value:.3f}" for value in np.mean(rows, axis=0)))
    closer = ",".join(map(str, (fused[:, None] < others).sum(axis=0)))
    print(f"pairs of {len(rows)} where fused is closer,,{closer},")


@torch.no_grad()
def fields_and_gates(network: Any, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Fields ``(3, *spatial)`` of the pair, those of ``NAMES``, and its six gates ``(6, *spatial)``."""
    seen: list[Tensor] = []
    hook = network.fusion.register_forward_hook(lambda module, arguments, _: seen.extend(arguments))
    padded = pad_to_multiple(images[None], network.stride)
    fields = network.fields(padded)
    hook.remove()
    gates = network.fusion.gates(torch.cat(seen[:2], dim=1), seen[2])
    gates = torch.nn.functional.interpolate(gates, size=padded.shape[2:], mode="trilinear")
    return [crop(field, list(images.shape[1:]))[0] for field in fields], crop(gates, list(images.shape[1:]))[0]


@torch.no_grad()
def with_constant_gates(network: Any, fields: list[Tensor], gates: Tensor) -> Tensor:
    """Field ``(3, *spatial)`` of both branches' fields through six gates that are alike everywhere."""
    both = torch.cat([fields[NAMES.index("images")], fields[NAMES.index("gradients")]])
    weight, bias = network.fusion.bottleneck.weight.flatten(1), network.fusion.bottleneck.bias
    return torch.einsum("oi,i...->o...", weight * gates, both) + 2 * bias.view(3, 1, 1, 1)


def brain(data: dict[str, Any]) -> Tensor:
    """Mask of the fixed image, ``spatial``."""
    return data["fixed_mask"].as_tensor()[0] > 0


def error_vectors(data: dict[str, Any], ddf: Tensor) -> Tensor:
    """``(*spatial, 3)``, mm: where the field takes each voxel of the fixed image, less where the truth does."""
    grid = Grid.from_image(data["fixed"])
    found = data["initial"] @ DisplacementField.from_ddf(ddf, data["grid"]).sample(grid)
    return found.map_grid(grid) - data["truth"].map_grid(grid)


def on_fixed_grid(data: dict[str, Any], image: Tensor) -> Tensor:
    """Image ``(C, *spatial)`` of the network's grid, resampled to the fixed image's."""
    return resample(image, data["grid"], Grid.from_image(data["fixed"]))


def draw(data: dict[str, Any], ddf: Tensor, gates: Tensor, errors: dict[str, Tensor], output: str) -> None:
    """Write the picture."""
    grid, mask = Grid.from_image(data["fixed"]), brain(data)
    plane = display_planes(grid, tuple(int(k) for k in mask.nonzero().double().mean(dim=0).round()))[0]
    transform = data["initial"] @ DisplacementField.from_ddf(ddf, data["grid"]).sample(grid)
    warped = resample(data["moving"].as_tensor(), Grid.from_image(data["moving"]), grid, transform)
    figure = Figure(figsize=(14, 2.9), dpi=150, layout="constrained")
    panels = figure.subplots(1, 7)
    shown = {"fixed": data["fixed"].as_tensor(), "moving": data["moving"].as_tensor(), "warped": warped}
    for panel, (name, image) in zip(panels[:3], shown.items(), strict=True):
        values = plane.take(image)[0]
        panel.imshow(gray(values, image_windows(values, values)[0]), cmap="gray", extent=plane.extent, vmin=0, vmax=1)
        panel.set_title(name, fontsize=11)
    gate = on_fixed_grid(data, gates[:3].mean(dim=0, keepdim=True)) * mask
    picture = panels[3].imshow(plane.take(gate)[0], cmap="viridis", extent=plane.extent, vmin=0, vmax=1)
    panels[3].set_title("gate of the images", fontsize=11)
    figure.colorbar(picture, ax=panels[3], shrink=0.8)
    for panel, name in zip(panels[4:], ("images", "gradients", "fused"), strict=True):
        length = errors[name].norm(dim=-1).float()
        picture = panel.imshow(
            plane.take((length * mask)[None])[0], cmap="magma", extent=plane.extent, vmin=0, vmax=LARGEST
        )
        panel.set_title(f"{name}: {length[mask].mean():.2f} mm", fontsize=11)
    figure.colorbar(picture, ax=panels[6], shrink=0.8, label="error (mm)", extend="max")
    for panel in panels.flat:
        panel.set_axis_off()
    with atomic(output) as temporary:
        figure.savefig(temporary)


if __name__ == "__main__":
    fire.Fire(main)
