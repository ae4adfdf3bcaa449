#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of the optimizer's products with banded matrices beside convolution and interpolation.

Smoothing of a field beside MONAI's `GaussianFilter`, or enlargement by two, with its backward, beside PyTorch's
`interpolate`. Each implementation in a fresh process of its own. Run it on a machine that does nothing else; from the
repository's root:

    python tests/benchmarks/bench_fields.py --shape 96 96 96 --operation enlarging --threads 2

The shape is that of the result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import side_by_side
import torch
from monai.networks.layers import GaussianFilter

from regplugins.registration.parametrization import gaussian
from regplugins.spatial import upsample_ddf, upsample_ddf_by_axis

IMPLEMENTATIONS = ("convolution or interpolation", "regplugins")


def measure(implementation: str, options: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    n, ours = len(options.shape), implementation == "regplugins"

    def smooth(field: torch.Tensor, _: torch.Tensor) -> None:
        with torch.no_grad():
            (gaussian(options.sigma, field) if ours else GaussianFilter(n, options.sigma))(field)

    def enlarge(field: torch.Tensor, _: torch.Tensor) -> None:
        field.grad = None
        (upsample_ddf_by_axis(field, [2] * n) if ours else upsample_ddf(field, 2)).sum().backward()

    def fields(shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        sizes = [size // 2 for size in shape] if options.operation == "enlarging" else shape
        field = torch.rand(options.batch, n, *sizes, device=options.device).requires_grad_()
        return field, field

    step = smooth if options.operation == "smoothing" else enlarge
    return side_by_side.measure(step, fields, 16, options)


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = side_by_side.parser(__doc__, IMPLEMENTATIONS)
    parser.add_argument("--operation", choices=("smoothing", "enlarging"), default="smoothing")
    parser.add_argument("--sigma", type=float, default=1.7, help="of the smoothing, voxels")
    side_by_side.run(parser, measure, __file__, arguments, IMPLEMENTATIONS)


if __name__ == "__main__":
    main()
