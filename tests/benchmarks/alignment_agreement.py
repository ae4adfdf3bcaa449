# SPDX-License-Identifier: Apache-2.0
"""Disagreement of tools about the rigid alignment of a pair of heads without ground truth.

    python tests/benchmarks/alignment_agreement.py --fixed F --moving M [--upside_down 1] [--also A] [--output_dir O]

Needs the ``benchmark`` extra. `regplugins` is asked three times: as a user would, with another seed, and with the roles
of the images swapped. Prints, for every two answers, the mean and the largest distance in mm between where they put the
points of the patient, a lattice of the fixed image's foreground. Small distances do not prove that all are right, but
errors are at least half as large as the distances. ``--upside_down k`` hands the other tools a moving image that is
turned by 180 degrees about world axis k and lies at the center of the fixed one, since they look for small turns only.
``--also`` is an affine file with one more answer, a bundle's ``transform_0GenericAffine.mat``, say.
Writes each transform into ``O`` if given.
"""

from __future__ import annotations

import tempfile
from itertools import combinations
from pathlib import Path

import fire
import torch
from peers_alignment import METHODS

from regplugins.io import load_image, read_transform, write_image, write_transform
from regplugins.registration import Volume, initial_transform
from regplugins.registration.poses import weighted_foreground
from regplugins.spatial import AffineTransform, Grid


def main(
    fixed: str,
    moving: str,
    output_dir: str | None = None,
    methods: tuple[str, ...] = ("ants", "elastix"),
    upside_down: int | None = None,
    also: str | None = None,
) -> None:
    """Align the pair in every way and print the distances."""
    found = {"regplugins": METHODS["regplugins"](fixed, moving), "another seed": _with_seed(fixed, moving, 1)}
    found["roles swapped"] = METHODS["regplugins"](moving, fixed).inverse()
    with tempfile.TemporaryDirectory() as folder:
        turn = AffineTransform.identity(3)
        if upside_down is not None:
            turn = _half_turn(fixed, moving, upside_down)
            scan = load_image(moving)
            moving = f"{folder}/moving.nii.gz"
            grid = Grid.from_image(scan)
            write_image(scan.as_tensor(), Grid(grid.shape, turn.inverse().matrix @ grid.affine), moving)
        found |= {name: turn @ METHODS[name](fixed, moving) for name in methods}
    if also is not None:
        found["given"] = read_transform(also)
    image = load_image(fixed)
    volume = Volume.prepare("fixed", image.as_tensor(), Grid.from_image(image))
    points, _ = weighted_foreground(volume.downsampled(32**3))
    for (name, one), (other_name, other) in combinations(found.items(), 2):
        distances = (one(points) - other(points)).norm(dim=-1)
        print(f"{name} and {other_name}: mean {distances.mean():.2f} mm, largest {distances.max():.2f} mm")
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        for name, transform in found.items():
            write_transform(transform, Path(output_dir) / f"{name.replace(' ', '_')}_0GenericAffine.mat")


def _half_turn(fixed: str, moving: str, axis: int) -> AffineTransform:
    """The half turn that takes the fixed image's center to the moving one's."""
    origin, target = (Grid.from_image(load_image(path)).center for path in (fixed, moving))
    matrix = -torch.eye(4, dtype=torch.float64)
    matrix[axis, axis] = matrix[3, 3] = 1
    matrix[:3, 3] = target - matrix[:3, :3] @ origin
    return AffineTransform(matrix)


def _with_seed(fixed: str, moving: str, seed: int) -> AffineTransform:
    return initial_transform("rigid", load_image(fixed), load_image(moving), seed)[1]


if __name__ == "__main__":
    fire.Fire(main)
