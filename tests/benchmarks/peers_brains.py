# SPDX-License-Identifier: Apache-2.0
"""ANTs, ConvexAdam and Greedy on pairs of brains of `regplugins prepare brains`, judged by the bundles' own code.

    python tests/benchmarks/peers_brains.py --dataset_dir D --output_dir O --method greedy_nmi [--section test]

Needs the ``benchmark`` extra. Every method gets two threads and the images as they are, which share a world:

- ``syn_mi``: ANTs' SyN with mutual information and the affine stage before it, antspyx' defaults;
- ``convexadam``: ConvexAdam with MIND-SSC, its package's defaults in float32 on the CPU;
- ``greedy_nmi``: Greedy's deformable mode alone with normalised mutual information, the iterations of its quick start.

Writes ``metrics.csv`` and ``summary.json`` with the columns of a bundle's evaluate.json; ``seconds_network`` is the
registration alone, without files.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import torch
from ignite.engine import Engine
from ignite.handlers import ProgressBar

from regplugins.data import read_datalist
from regplugins.io import read_chain, read_displacement
from regplugins.report import MeasurePaird, SummaryTable, json_text
from regplugins.report.table import summarise
from regplugins.spatial import DisplacementField, Grid, Transform, onto_grid, pad_to_multiple
from regplugins.transforms import CarryPaird, LoadPaird
from regplugins.transforms.timing import stage

_THREADS = 2
_SEED = 1
# Of the package's grid_sp 6 and grid_sp_adam 2: of other sizes it drops the remainder and stretches the field instead.
_CONVEXADAM_MULTIPLE = 6
# Warps are otherwise rounded to a tenth of a voxel (-wp).
_GREEDY = f"-i fixed moving -o warp -m NMI -n 100x50x10 -wp 0 -seed {_SEED} -threads {_THREADS} -V 0"


def main(
    dataset_dir: str, output_dir: str, method: str = "syn_mi", section: str = "test", first: int | None = None
) -> None:
    """Register the pairs of a section, or the first of them, and write the tables."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(_THREADS)
    torch.set_num_threads(_THREADS)
    register = METHODS[method]
    engine = Engine(lambda _, record: judged(record, register))
    table = SummaryTable(Path(output_dir) / "metrics.csv", Path(output_dir) / "summary.json", by_label=True)
    table.attach(engine)
    ProgressBar(persist=True).attach(engine)
    engine.run(read_datalist(Path(dataset_dir) / "datalist.json", section)[:first])
    print(json_text(summarise(table.rows)))


def judged(record: dict[str, str], register: Callable[[dict[str, Any]], Transform]) -> dict[str, Any]:
    """Register one pair and measure it as evaluate.json does."""
    pair = LoadPaird(spatial_dims=3)(record)
    transform = register(pair)
    return MeasurePaird()(CarryPaird(transform)(pair))


def _syn_mi(pair: dict[str, Any]) -> Transform:
    import ants

    fixed, moving = (ants.image_read(pair["paths"][side]) for side in ("fixed", "moving"))
    with tempfile.TemporaryDirectory() as folder:
        with stage(pair, "network"):
            result = ants.registration(
                fixed,
                moving,
                type_of_transform="SyN",
                aff_metric="mattes",
                syn_metric="mattes",
                outprefix=f"{folder}/out",
                random_seed=_SEED,
            )
        return read_chain(result["fwdtransforms"])


def _convexadam(pair: dict[str, Any]) -> Transform:
    from convexAdam.convex_adam_MIND import convex_adam_pt

    grid = Grid.from_image(pair["fixed"])
    images = [pair["fixed"].as_tensor(), onto_grid(pair["moving"], grid)]
    fixed, moving = (pad_to_multiple(image[None].float(), _CONVEXADAM_MULTIPLE)[0, 0] for image in images)
    with stage(pair, "network"):
        field = convex_adam_pt(fixed, moving, dtype=torch.float32, device=torch.device("cpu"))
    # Voxels, to be added to the index in the fixed image, in the order of the array's axes.
    x, y, z = grid.shape
    return DisplacementField.from_ddf(torch.from_numpy(field[:x, :y, :z]).movedim(-1, 0), grid)


def _greedy_nmi(pair: dict[str, Any]) -> Transform:
    import SimpleITK as sitk
    from picsl_greedy import Greedy3D

    images = {side: sitk.ReadImage(pair["paths"][side], sitk.sitkFloat32) for side in ("fixed", "moving")}
    greedy = Greedy3D()
    with stage(pair, "network"):
        greedy.execute(_GREEDY, **images, warp=None)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/warp.nii"
        sitk.WriteImage(sitk.Cast(greedy["warp"], sitk.sitkVectorFloat32), path)
        return read_displacement(path)


METHODS: dict[str, Callable[[dict[str, Any]], Transform]] = {
    "syn_mi": _syn_mi,
    "convexadam": _convexadam,
    "greedy_nmi": _greedy_nmi,
}

if __name__ == "__main__":
    fire.Fire(main)
