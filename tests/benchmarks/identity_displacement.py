# SPDX-License-Identifier: Apache-2.0
"""Displacement that a bundle gives an aligned pair: an image with itself, in another contrast, and with its partner.

    python tests/benchmarks/identity_displacement.py BUNDLE [--fixed F --partner P] [--KEY VALUE]

``BUNDLE`` is such as bundles/brain_mr_gated_gradient, ``F`` the sample's fixed image unless given, ``P`` aligned with
it. Prints the mean displacement over the foreground of the fixed image, mm, of one run without an initial alignment.
Keys are those of the bundle's ``inference.json``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import fire
import monai.bundle

from regplugins.datasets.brain_t1_labels import remap
from regplugins.io import load_image, read_displacement, write_image
from regplugins.spatial import Grid


def main(bundle: str, fixed: str | None = None, partner: str | None = None, **options: Any) -> None:
    """Print the displacements as JSON.

    Args:
        bundle: folder of a bundle of brains.
        fixed: an image; default: the sample's.
        partner: another image, aligned with it.
        options: keys of ``inference.json``.
    """
    folder = Path(bundle)
    path = Path(fixed or folder / "sample/fixed.nii.gz")
    image = load_image(path)
    inside = image[0].as_tensor() > 0
    found = {}
    with tempfile.TemporaryDirectory() as work:
        other = Path(work, "remapped.nii.gz")
        write_image(remap(image.as_tensor()), Grid.from_image(image), other)
        moving_images = {"itself": path, "remapped": other} | ({"partner": partner} if partner else {})
        for name, moving in moving_images.items():
            output = Path(work, name)
            monai.bundle.run(
                config_file=str(folder / "configs/inference.json"),
                bundle_root=str(folder),
                output_dir=str(output),
                fixed=str(path),
                moving=str(moving),
                init="none",
                **options,
            )
            lengths = read_displacement(output / "transform_1Warp.nii.gz").vectors.norm(dim=0)
            found[name] = round(float(lengths[inside].mean()), 3)
    print(json.dumps({"bundle": folder.name, "mean_displacement_mm": found}))


if __name__ == "__main__":
    fire.Fire(main)
