#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Time of the networks, of optimization, and of the losses and warps under them on a GPU, beside two CPU threads.

    python tests/benchmarks/gpu.py [--device cuda] [--output docs/results/gpu.md]

Medians of one run. The floor of a kernel is the time in which the GPU copies the bytes that must be read and written
once, measured in the same run. Writes a page. It needs no data and no network.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import fire
import side_by_side
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.utils import optional_import
from torch import Tensor, nn

import regplugins
from regplugins.losses import LocalNCCLoss, MINDLoss
from regplugins.registration import initial_transform
from regplugins.spatial import invert_ddf, warp

ROOT = Path(__file__).resolve().parents[2]
OPTIMIZATION = "any_modality_optimization"
# Goals, seconds and ratios.
BRAIN, NETWORK, FLOOR = 1.5, 0.010, 3.0


def milliseconds(run: Callable[[], object], repeats: int, device: str) -> tuple[float, float]:
    """Median time, ms, and the peak of the memory allocated on the GPU, MiB; not a number on a CPU."""
    run()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    median = 1e3 * statistics.median(side_by_side.seconds(run, repeats, device))
    return median, float("nan") if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20


def bytes_per_ms(device: str) -> float:
    """Bytes read and written per millisecond by a copy of a block much larger than any cache."""
    block = torch.empty(2**28 if device != "cpu" else 2**25, device=device)
    return 2 * block.nbytes / (1e3 * min(side_by_side.seconds(lambda: block.clone(), 10, device)))


def pair_of(shape: Sequence[int], device: str) -> tuple[Tensor, Tensor]:
    """Smooth noise, and the same through a smooth displacement of some voxels, each ``(1, 1, *shape)``."""
    generator = torch.Generator().manual_seed(0)

    def noise(channels: int, step: int) -> Tensor:
        coarse = torch.rand(1, channels, *[-(-size // step) + 1 for size in shape], generator=generator)
        mode = "trilinear" if len(shape) == 3 else "bilinear"
        return nn.functional.interpolate(coarse, list(shape), mode=mode, align_corners=True)

    fixed = noise(1, 8) + 0.3 * noise(1, 3)
    return fixed.to(device), warp(fixed, 6 * noise(len(shape), 32) - 3).to(device)


def kernels(shape: Sequence[int], device: str) -> dict[str, tuple[int, Callable[[], object]]]:
    """Volumes of one channel that must be read or written once, and the kernel, by name."""
    fixed, moving = pair_of(shape, device)
    moving.requires_grad_()
    n = len(shape)
    ddf = (2 * torch.rand(1, n, *[size // 16 + 1 for size in shape], device=device)).requires_grad_()
    ddf = nn.functional.interpolate(ddf, list(shape), mode="trilinear" if n == 3 else "bilinear").detach()
    moved = ddf.clone().requires_grad_()

    def gradient(loss: nn.Module) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(moving, fixed), moving)

    return {
        "MIND-SSC and its gradient": (3, gradient(MINDLoss())),
        "local NCC (5) and its gradient": (3, gradient(LocalNCCLoss(5))),
        "warp": (2 + n, lambda: warp(fixed, ddf)),
        "warp and the gradient of the field": (3 + 2 * n, lambda: torch.autograd.grad(warp(fixed, moved).sum(), moved)),
        "inverse of a field": (2 * n, lambda: invert_ddf(ddf)),
    }


def parsed(bundle: str, **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / bundle / "configs/inference.json"))
    parser.update({"bundle_root": str(ROOT / "bundles" / bundle), "device": "cpu", **overrides})
    return parser


def network_input(bundle: str, scale: float = 1.0) -> list[int]:
    """Smallest shape that the network takes, at least that of its training times a scale."""
    read = ConfigParser.load_config_file
    metadata = read(str(ROOT / "bundles" / bundle / "configs/metadata.json"))
    trained = read(str(ROOT / "bundles" / bundle / "configs/train.json"))["network_shape"]
    sizes = metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
    return [
        next(size for n in count(1) if (size := eval(str(rule), {"n": n})) >= scale * least or size == rule)
        for rule, least in zip(sizes, trained, strict=True)
    ]


def networks(device: str, repeats: int, scale: float) -> list[str]:
    rows = []
    for path in sorted(ROOT.glob("bundles/*/configs/train.json")):
        bundle = path.parents[1].name
        shape = network_input(bundle, scale)
        network = parsed(bundle).get_parsed_content("network_def").eval()
        channels = 1 if bundle.endswith("modality") else 2
        times = {}
        for where in dict.fromkeys(("cpu", device)):
            pair = torch.rand(1, channels, *shape, device=where)
            with torch.inference_mode():
                times[where], memory = milliseconds(lambda: network.to(where)(pair), repeats, where)  # noqa: B023
        rows.append(row(f"`{bundle}`", sizes(shape), times["cpu"], times[device], times["cpu"] / times[device], memory))
    return rows


def optimization(shape: Sequence[int], device: str, on_cpu: bool) -> str:
    fixed, moving = pair_of(shape, device)
    options = {"spacing": 1.0, "preset": "multimodal", "levels": [[8, 40], [4, 40], [2, 20]]}
    optimizer = parsed(OPTIMIZATION, **options).get_parsed_content("optimizer")
    pair = torch.cat([moving, fixed], dim=1)
    own, memory = milliseconds(lambda: optimizer(pair), 1, device)
    cpu = milliseconds(lambda: optimizer(pair.cpu()), 1, "cpu")[0] if on_cpu and device != "cpu" else own
    known = on_cpu or device == "cpu"
    return row(
        f"`{OPTIMIZATION}`, 1 mm", sizes(shape), *((cpu, own, cpu / own) if known else (None, own, None)), memory
    )


def alignment(shape: Sequence[int]) -> float:
    """Time of ``init affine``, which is computed on the CPU, ms."""
    fixed, moving = pair_of(shape, "cpu")
    images = MetaTensor(fixed[0]), MetaTensor(moving[0])
    return milliseconds(lambda: initial_transform("affine", *images), 1, "cpu")[0]


def tensorrt(device: str) -> str:
    """Sentence about the time of the smallest deformable network with TensorRT."""
    library, is_there = optional_import("torch_tensorrt")
    if not is_there or device == "cpu":
        return "TensorRT was not there."
    bundle = "hippocampus_mr_multires_fcn"
    network = parsed(bundle).get_parsed_content("network_def").eval().to(device)
    pair = torch.rand(1, 2, *network_input(bundle), device=device)
    compiled = library.compile(network, inputs=[pair])
    return f"TensorRT runs `{bundle}` in {milliseconds(lambda: compiled(pair), 20, device)[0]:.2f} ms."


def sizes(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def row(*cells: Any) -> str:
    """Line of a table; numbers with three digits, a dash for what was not measured."""
    texts = (
        cell if isinstance(cell, str) else "–" if cell is None or math.isnan(cell) else f"{cell:.3g}" for cell in cells
    )
    return f"|{'|'.join(texts)}|"


def main(
    device: str = "cuda",
    shape: Sequence[int] = (160, 192, 160),
    large: Sequence[int] = (256, 256, 256),
    repeats: int = 10,
    threads: int = 2,
    scale: float = 1.0,
    output: str | None = None,
) -> None:
    """Measure, and print the page or write it.

    Args:
        device: "cuda", or "cpu" to try the script.
        shape: of a brain at 1 mm.
        large: of a large volume at 1 mm.
        repeats: of each kernel and network.
        threads: of the CPU.
        scale: of the networks' input, 1 for that of their training.
        output: file of the page; default: printed.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rate = bytes_per_ms(device)
    name = "A trial on the CPU" if device == "cpu" else torch.cuda.get_device_name()
    kernel_rows = []
    for size in (shape, large):
        for kernel, (volumes, run) in kernels(size, device).items():
            own, memory = milliseconds(run, repeats, device)
            floor = 4 * volumes * torch.Size(size).numel() / rate
            kernel_rows.append(row(kernel, sizes(size), own, floor, own / floor, memory))
    page = [
        "# GPU",
        "",
        f"{name}, beside {threads} CPU threads; PyTorch {torch.__version__}, regplugins {regplugins.__version__}. "
        f"A copy moves {rate / 1e9:.3g} TB/s.",
        "",
        "```bash",
        "make gpu",
        "```",
        "",
        "## Networks and optimization",
        "",
        f"Goals: a brain of 1 mm in {BRAIN} s, the hippocampus network in {1e3 * NETWORK:g} ms.",
        "",
        "||voxels|CPU, ms|GPU, ms|ratio|peak, MiB|",
        "|---|---|---|---|---|---|",
        *networks(device, repeats, scale),
        optimization(shape, device, True),
        optimization(large, device, False),
        "",
        f"`init affine` takes {alignment(shape):.0f} ms, on the CPU. {tensorrt(device)}",
        "",
        "## Losses and warps",
        "",
        f"Goal: {FLOOR:g} times the floor.",
        "",
        "||voxels|GPU, ms|floor, ms|ratio|peak, MiB|",
        "|---|---|---|---|---|---|",
        *kernel_rows,
        "",
    ]
    if output is None:
        print("\n".join(page))
    else:
        Path(output).write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    fire.Fire(main)
