# SPDX-License-Identifier: Apache-2.0
"""Other programs, and registration without a network, on the pairs by which bundles are judged, with the bundles' code.

    python tests/benchmarks/peers.py --dataset_dir D --output_dir O --method convexadam [--section test] [--init none]

``D/datalist.json`` is one of ``regplugins prepare``. Needs the ``benchmark`` extra, for ``fireants_*`` its package.
Every method gets two threads, starts from the same ``init`` and registers in its own process. Writes ``metrics.csv``
and ``summary.json`` with the columns of a bundle's evaluate.json ("before": after ``init``); ``seconds_network`` is the
registration alone, with neither files nor ``init``, and the process's peak memory, of images and measures too, is
printed.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from ignite.engine import Engine
from ignite.handlers import ProgressBar
from peers_alignment import METHODS as RIGID  # beside this script
from peers_alignment import elsewhere
from torch import Tensor

from regplugins.data import ordered_pairs, read_datalist
from regplugins.handlers import SummaryTable
from regplugins.io import read_chain, read_displacement, write_image, write_transform
from regplugins.metrics import inverse_consistency_error, sample_points
from regplugins.registration import PresetRegistration
from regplugins.registration.intensity import scale_percentiles
from regplugins.report import json_text
from regplugins.report.table import summarize
from regplugins.spatial import DisplacementField, Grid, SpatialTransform, pad_to_multiple, resample_to_grid
from regplugins.transforms import ApplyTransformPaird, EvaluatePaird, LoadPaird, Registerd
from regplugins.transforms.resample import pair_initial_transform
from regplugins.transforms.swap import swap_pair
from regplugins.transforms.timing import stage

_THREADS = 2
_SEED = 1
# Of the package's grid_sp 6 and grid_sp_adam 2: of other sizes it drops the remainder and stretches the field instead.
_CONVEXADAM_MULTIPLE = 6
# No level of its pyramid has fewer voxels an axis.
_FIREANTS_LEAST = 32
# The package's 4 is too much for a hippocampus at a quarter of its size.
_DIPY_RADIUS = 2
# They choose their iterations themselves.
_FIXED_ITERATIONS = ("auto", "syn_cc")
# Of the splines along the longest side: the 10 mm of its default on 250 mm, for mice and hippocampi, too.
_ELASTIX_KNOTS = 25


@dataclass
class Run:
    """Effort and device of a method: a factor for its number of iterations, and where it computes."""

    effort: float
    device: str

    def times(self, iterations: Sequence[int]) -> list[int]:
        return [round(self.effort * count) for count in iterations]


Method = Callable[[dict[str, Any], Run], SpatialTransform]


def main(
    dataset_dir: str,
    output_dir: str,
    method: str = "syn_mi",
    section: str = "test",
    init: str = "none",
    pairs: int = 200,
    first: int | None = None,
    motion: bool = False,
    bidirectional: bool = False,
    effort: float = 1.0,
    device: str = "cpu",
) -> None:
    """Register the pairs of a section and write the tables.

    Args:
        dataset_dir: folder with ``datalist.json``.
        output_dir: for the tables.
        method: what registers, one of ``METHODS``.
        section: of the datalist: pairs, or images of which random ordered pairs are made, as evaluate.json does.
        init: what every method starts from: "auto", "none", "fov", "center", "rigid" or "affine".
        pairs: how many are made of images.
        first: only so many of them.
        motion: the true transforms are rigid: measure rotation, translation and what the paper of heads does.
        bidirectional: register with fixed and moving swapped, too, and measure that and the cycle consistency.
        effort: factor of every method's numbers of iterations, but for those of the initial field of ``same_modality``.
        device: where those that can (this package's, ConvexAdam, FireANTs) compute; the others use the CPU.
    """
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(_THREADS)
    torch.set_num_threads(_THREADS)
    if effort != 1 and (method in _FIXED_ITERATIONS or method.startswith("rigid_")):
        raise ValueError(f"{method} has iterations of its own: effort must be 1, got {effort}")
    records = read_datalist(Path(dataset_dir) / "datalist.json", section)
    if "image" in records[0]:
        records = ordered_pairs(records, pairs)
    measure = EvaluatePaird(motion)
    settings = Run(effort, device)
    engine = Engine(lambda _, record: judged(record, METHODS[method], init, settings, measure, bidirectional))
    table = SummaryTable(Path(output_dir) / "metrics.csv", Path(output_dir) / "summary.json", by_label=True)
    table.attach(engine)
    ProgressBar(persist=True).attach(engine)
    engine.run(records[:first])
    print(json_text(summarize(table.rows)))
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


def judged(
    record: dict[str, str], method: Method, init: str, run: Run, measure: EvaluatePaird, bidirectional: bool
) -> dict[str, Any]:
    """Register one pair and measure it as evaluate.json does."""
    pair = LoadPaird()(record)
    with stage(pair, "init"):
        _, pair["initial"] = pair_initial_transform(pair, init)
    there = method(pair, run)
    found = ApplyTransformPaird(there, start=pair["initial"])(pair)
    if bidirectional:
        other = swap_pair(pair) | {"initial": pair["initial"].inverse(), "seconds": {}}
        back = method(other, run)
        found["backward"] = measure(ApplyTransformPaird(back, start=other["initial"])(other))
        mask = pair["fixed_mask"].as_tensor() if "fixed_mask" in pair else None
        points = sample_points(Grid.from_image(pair["fixed"]), mask=mask)
        found["cycle_error"] = inverse_consistency_error(there, back, points, Grid.from_image(pair["moving"]))
    return measure(found)


def _regplugins(preset: str) -> Method:
    def register(pair: dict[str, Any], run: Run) -> SpatialTransform:
        spacing = float(min(Grid.from_image(pair["fixed"]).spacing))
        levels = PresetRegistration(preset, spacing).settings(preset)["levels"]
        levels = [(size, *run.times([count])) for size, count in levels]
        return _registered(pair, run, PresetRegistration(preset, spacing, levels=levels))

    return register


def _registered(pair: dict[str, Any], run: Run, optimizer: PresetRegistration | str = "auto") -> SpatialTransform:
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start.mat"
        write_transform(pair["initial"], start)
        step = Registerd("fixed", "moving", optimizer, init=str(start), device=run.device)
        with stage(pair, "network"):
            found: SpatialTransform = step(pair)["transform"]
    return found


def _rigid(register: Callable[[str, str], SpatialTransform]) -> Method:
    def registered(pair: dict[str, Any], run: Run) -> SpatialTransform:
        with stage(pair, "network"):
            return register(pair["paths"]["fixed"], pair["paths"]["moving"])

    return registered


def _on_fixed_grid(pair: dict[str, Any], least: int = 1) -> tuple[Tensor, Tensor, Grid]:
    """Both images, ``(1, *spatial)`` in [0, 1], as ``init`` brings them together, ``least`` voxels an axis or more."""
    grid = Grid.from_image(pair["fixed"])
    # By an even number more, so that the voxels stay where they are.
    shape = [size if size >= least else least + (size - least) % 2 for size in grid.shape]
    grid = grid.resized(grid.spacing.tolist(), shape)
    return (
        scale_percentiles(resample_to_grid(pair["fixed"], grid)),
        scale_percentiles(resample_to_grid(pair["moving"], grid, pair["initial"])),
        grid,
    )


def _ants(kind: str = "SyN", matched: bool = False, **options: Any) -> Method:
    def register(pair: dict[str, Any], run: Run) -> SpatialTransform:
        import ants

        fixed, moving = (ants.image_read(pair["paths"][side]) for side in ("fixed", "moving"))
        if matched:
            moving = ants.histogram_match_image(moving, fixed)
        iterations = {key: run.times(counts) for key, counts in options.items() if key.endswith("iterations")}
        with tempfile.TemporaryDirectory() as folder:
            start = f"{folder}/start.mat"
            write_transform(pair["initial"], start)
            with stage(pair, "network"):
                result = ants.registration(
                    fixed,
                    moving,
                    type_of_transform=kind,
                    initial_transform=start,
                    outprefix=f"{folder}/out",
                    random_seed=_SEED,
                    **{**options, **iterations},
                )
            return read_chain(result["fwdtransforms"])

    return register


def _convexadam(pair: dict[str, Any], run: Run) -> SpatialTransform:
    from convexAdam.convex_adam_MIND import convex_adam_pt

    fixed, moving, grid = _on_fixed_grid(pair)
    padded = [pad_to_multiple(image[None].float(), _CONVEXADAM_MULTIPLE)[0, 0] for image in (fixed, moving)]
    with stage(pair, "network"):
        field = convex_adam_pt(
            *padded, dtype=torch.float32, device=torch.device(run.device), selected_niter=run.times([80])[0]
        )
    # Voxels, to be added to the index in the fixed image, in the order of the array's axes.
    x, y, z = grid.shape
    ddf = torch.from_numpy(field[:x, :y, :z]).movedim(-1, 0)
    return pair["initial"] @ DisplacementField.from_ddf(ddf, grid)


def _write_images(pair: dict[str, Any], folder: str, least: int = 1) -> list[str]:
    fixed, moving, grid = _on_fixed_grid(pair, least)
    paths = [f"{folder}/fixed.nii", f"{folder}/moving.nii"]
    for path, values in zip(paths, (fixed, moving), strict=True):
        write_image(values, grid, path, np.float32)
    return paths


def _itk_images(pair: dict[str, Any], folder: str, least: int = 1) -> list[Any]:
    import SimpleITK as sitk

    return [sitk.ReadImage(path, sitk.sitkFloat32) for path in _write_images(pair, folder, least)]


def _greedy(metric: str) -> Method:
    def register(pair: dict[str, Any], run: Run) -> SpatialTransform:
        import picsl_greedy
        import SimpleITK as sitk

        iterations = "x".join(map(str, run.times((100, 50, 10))))
        # Warps are otherwise rounded to a tenth of a voxel (-wp).
        command = f"-i fixed moving -o warp -m {metric} -n {iterations} -wp 0 -seed {_SEED} -threads {_THREADS} -V 0"
        with tempfile.TemporaryDirectory() as folder:
            fixed, moving = _itk_images(pair, folder)
            greedy = getattr(picsl_greedy, f"Greedy{fixed.GetDimension()}D")()
            with stage(pair, "network"):
                greedy.execute(command, fixed=fixed, moving=moving, warp=None)
            path = f"{folder}/warp.nii"
            sitk.WriteImage(sitk.Cast(greedy["warp"], sitk.sitkVectorFloat32), path)
            return pair["initial"] @ read_displacement(path)

    return register


def _dipy(metric: str) -> Method:
    def register(pair: dict[str, Any], run: Run) -> SpatialTransform:
        from dipy.align import imwarp, metrics

        fixed, moving, grid = _on_fixed_grid(pair)
        cost = metrics.CCMetric(3, radius=_DIPY_RADIUS) if metric == "cc" else metrics.EMMetric(3)
        method = imwarp.SymmetricDiffeomorphicRegistration(cost, level_iters=run.times((100, 50, 25)))
        with stage(pair, "network"):
            mapping = method.optimize(fixed[0].double().numpy(), moving[0].double().numpy())
            # Without an affine of the grid: voxels, in the order of the array's axes.
            field = mapping.get_forward_field()
        ddf = torch.from_numpy(np.asarray(field)).movedim(-1, 0).float()
        return pair["initial"] @ DisplacementField.from_ddf(ddf, grid)

    return register


def _elastix(metric: str) -> Method:
    def register(pair: dict[str, Any], run: Run) -> SpatialTransform:
        with tempfile.TemporaryDirectory() as folder:
            warp = f"{folder}/warp.nii"
            arguments = (*_write_images(pair, folder), warp, metric, *run.times([256]))
            pair["seconds"]["network"] = elsewhere().apply(_elastix_spline, arguments)
            return pair["initial"] @ read_displacement(warp)

    return register


def _elastix_spline(fixed_path: str, moving_path: str, warp: str, metric: str, iterations: int) -> float:
    """Register two images and write their displacement field; returns the seconds of the registration."""
    import itk

    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(_THREADS)
    fixed, moving = (itk.imread(path, itk.F) for path in (fixed_path, moving_path))
    extent = max(size * spacing for size, spacing in zip(itk.size(fixed), itk.spacing(fixed), strict=True))
    parameters = itk.ParameterObject.New()
    settings = parameters.GetDefaultParameterMap("bspline", 4, extent / _ELASTIX_KNOTS)
    settings["Metric"] = [metric, *settings["Metric"][1:]]
    settings["MaximumNumberOfIterations"] = [str(iterations)]
    settings["RandomSeed"] = [str(_SEED)]
    settings["WriteResultImage"] = ["false"]
    parameters.AddParameterMap(settings)
    method = itk.ElastixRegistrationMethod.New(fixed, moving)
    method.SetParameterObject(parameters)
    begin = time.perf_counter()
    method.UpdateLargestPossibleRegion()
    seconds = time.perf_counter() - begin
    field = itk.transformix_deformation_field(moving, method.GetTransformParameterObject())
    itk.imwrite(field, warp)
    return seconds


def _fireants(metric: str) -> Method:
    def register(pair: dict[str, Any], run: Run) -> SpatialTransform:
        from fireants.io.image import BatchedImages, Image
        from fireants.registration.greedy import GreedyRegistration

        with tempfile.TemporaryDirectory() as folder:
            images = _itk_images(pair, folder, least=_FIREANTS_LEAST)
            batches = [BatchedImages(Image(image, device=run.device)) for image in images]
            with stage(pair, "network"):
                greedy = GreedyRegistration(
                    [4, 2, 1], run.times((200, 100, 50)), *batches, loss_type=metric, progress_bar=False
                )
                greedy.optimize()
            path = f"{folder}/warp.nii"
            greedy.save_as_ants_transforms(path)
            return pair["initial"] @ read_displacement(path)

    return register


METHODS: dict[str, Method] = {
    # As `regplugins register` does, with its own spacing.
    "auto": _registered,
    "multimodal": _regplugins("multimodal"),
    "same_modality": _regplugins("same_modality"),
    "ct_mr": _regplugins("ct_mr"),
    "large_deformation": _regplugins("large_deformation"),
    # The package's own iterations.
    "affine_mi": _ants("Affine", aff_metric="mattes", aff_iterations=(2100, 1200, 1200, 10)),
    "syn_mi": _ants(aff_metric="mattes", syn_metric="mattes", reg_iterations=(40, 20, 0)),
    # The package's recreation of antsRegistrationSyN.sh, deformable stage alone.
    "syn_cc": _ants("antsRegistrationSyN[so]"),
    # The command of Li and Fan (2018), with histogram matching.
    "paper_cc": _ants(
        matched=True,
        syn_metric="CC",
        syn_sampling=2,
        grad_step=0.25,
        flow_sigma=3,
        total_sigma=0,
        reg_iterations=(100, 100, 10),
        aff_iterations=(100, 100, 100),
        aff_shrink_factors=(4, 2, 1),
        aff_smoothing_sigmas=(2, 1, 0),
    ),
    # Rigid ones, from where the images lie.
    **{f"rigid_{name}": _rigid(register) for name, register in RIGID.items()},
    "convexadam": _convexadam,
    "elastix_mi": _elastix("AdvancedMattesMutualInformation"),
    "elastix_ncc": _elastix("AdvancedNormalizedCorrelation"),
    "greedy_ncc": _greedy("NCC 2x2x2"),
    "greedy_nmi": _greedy("NMI"),
    "dipy_cc": _dipy("cc"),
    "dipy_em": _dipy("em"),
    "fireants_cc": _fireants("cc"),
    "fireants_mi": _fireants("mi"),
}

if __name__ == "__main__":
    fire.Fire(main)
