# SPDX-License-Identifier: Apache-2.0
"""Initial alignment of heads under random rigid motions: `regplugins`, ANTs and elastix on the same cases.

    python tests/benchmarks/peers_alignment.py --images D --output_dir O [--cases 50] [--degrees 30]

Needs the ``benchmark`` extra. ``D`` is a folder of images, ``--mr`` and ``--ct`` name them (``t1.nii.gz`` is ``t1``).
The fixed image of a case is an MR, the moving one another MR or a CT, half the cases each. The moving image is turned
about the center of the fixed grid by up to ``degrees`` about a random axis and shifted by up to ``shift`` mm along each
axis. It loses up to a tenth of its slices at each of its six faces, so that its field of view tells nothing of the
motion; the motion goes into its header, so that nothing is interpolated.

A case succeeds if the rotation is right to 2 degrees and the center of the fixed image to 2 mm, judged twice: against
the motion, which is right where the images share a world, and ("own") against the motion after what the same tool finds
for the two images unmoved, which asks only whether the motion was found. Writes ``prealign.csv`` (a row a case and
method) and prints shares, times and the cases that failed.
"""

from __future__ import annotations

import csv
import math
import tempfile
import time
from collections.abc import Callable
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fire
import itk
import numpy as np
import torch
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from regplugins.baselines import register_one_plus_one_es
from regplugins.io import atomic, load_image, read_transform, write_image
from regplugins.io.itk_bridge import flip_matrix
from regplugins.registration import Volume, initial_transform
from regplugins.spatial import AffineTransform, Grid

_NEAR_DEGREES, _NEAR_MM = 2.0, 2.0
_CROPPED = 0.1


def main(
    images: str,
    output_dir: str,
    mr: str = "t1,t2,pd,flair",
    ct: str = "ct",
    cases: int = 50,
    degrees: float = 30.0,
    shift: float = 40.0,
    methods: str = "regplugins,ants,elastix",
    seed: int = 0,
) -> None:
    """Align every case with every method and write the table; names are parted by commas."""
    kinds, scans, names = ([part.strip(" ()'\"") for part in str(words).split(",")] for words in (mr, ct, methods))
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    unmoved = cache(lambda method, *pair: METHODS[method](*[f"{Path(images) / name}.nii.gz" for name in pair]))
    for modality in ("MR-MR", "CT-MR"):
        for case in tqdm(range(cases), desc=modality):
            fixed, moving = random.choice(kinds, 2, replace=False)
            moving = moving if modality == "MR-MR" else random.choice(scans)
            motion = _motion(random, degrees, shift)
            with tempfile.TemporaryDirectory() as folder:
                grid = Grid.from_image(load_image(Path(images) / f"{fixed}.nii.gz"))
                truth = _about_center(motion, grid)
                paths = _write_case(Path(images), fixed, moving, truth, random, Path(folder))
                for method in names:
                    begin = time.perf_counter()
                    found = METHODS[method](*paths)
                    seconds = time.perf_counter() - begin
                    row = {"modality": modality, "case": case, "method": method, "fixed": fixed, "moving": moving}
                    row |= {"turned": math.degrees(np.linalg.norm(motion[0])), "seconds": seconds}
                    for way, goal in (("", truth), ("_own", truth @ unmoved(method, fixed, moving))):
                        angle, distance = _errors(found, goal, grid)
                        success = int(angle <= _NEAR_DEGREES and distance <= _NEAR_MM)
                        row |= {f"degrees{way}": angle, f"mm{way}": distance, f"success{way}": success}
                    rows.append(row)
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    with atomic(output / "prealign.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for modality, method in product(("MR-MR", "CT-MR"), names):
        own = [row for row in rows if row["modality"] == modality and row["method"] == method]
        shares = [100 * np.mean([row[key] for row in own]) for key in ("success", "success_own")]
        mm, angle, seconds = (np.median([row[key] for row in own]) for key in ("mm", "degrees", "seconds"))
        print(f"{modality} {method}: {shares[0]:.0f} % of {len(own)} (own {shares[1]:.0f} %), ", end="")
        print(f"median {mm:.2f} mm, {angle:.2f} degrees, {seconds:.1f} s")
    for row in rows:
        if not row["success"]:
            print(", ".join(f"{key} {value:.1f}" if type(value) is float else f"{value}" for key, value in row.items()))


def _motion(random: np.random.Generator, degrees: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotation vector (radians; any axis, any angle up to ``degrees``) and shift (mm)."""
    axis = random.normal(size=3)
    angle = math.radians(random.uniform(-degrees, degrees))
    return angle * axis / np.linalg.norm(axis), random.uniform(-shift, shift, size=3)


def _about_center(motion: tuple[np.ndarray, np.ndarray], grid: Grid) -> AffineTransform:
    """The motion as a transform from the fixed to the moving world."""
    matrix = np.eye(4)
    center = grid.center.numpy()
    matrix[:3, :3] = Rotation.from_rotvec(motion[0]).as_matrix()
    matrix[:3, 3] = center + motion[1] - matrix[:3, :3] @ center
    return AffineTransform(torch.from_numpy(matrix))


def _write_case(
    images: Path, fixed: str, moving: str, truth: AffineTransform, random: np.random.Generator, folder: Path
) -> tuple[str, str]:
    paths = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    still, moved = load_image(images / f"{fixed}.nii.gz"), load_image(images / f"{moving}.nii.gz")
    write_image(still.as_tensor(), Grid.from_image(still), paths[0])
    grid = Grid.from_image(moved)
    lost = [[int(random.uniform(0, _CROPPED) * size) for _ in range(2)] for size in grid.shape]
    box = tuple(slice(low, size - high) for (low, high), size in zip(lost, grid.shape, strict=True))
    values = moved.as_tensor()[(slice(None), *box)]
    start = torch.eye(4, dtype=torch.float64)
    start[:3, 3] = torch.tensor([low for low, _ in lost])
    write_image(values, Grid(tuple(values.shape[1:]), truth.matrix @ grid.affine @ start), paths[1])
    return str(paths[0]), str(paths[1])


def _errors(found: AffineTransform, truth: AffineTransform, grid: Grid) -> tuple[float, float]:
    """Degrees, and mm at the center of the fixed image."""
    turn = Rotation.from_matrix((found.matrix[:3, :3] @ torch.linalg.inv(truth.matrix[:3, :3])).numpy())
    center = grid.center[None]
    return math.degrees(turn.magnitude()), float((found(center) - truth(center)).norm())


def _regplugins(fixed: str, moving: str) -> AffineTransform:
    return initial_transform("rigid", load_image(fixed), load_image(moving))[1]


def _evolution(pose: bool) -> Callable[[str, str], AffineTransform]:
    """Islam et al. 2021: one-plus-one evolution, from the principal axes or from where the images lie."""

    def register(fixed: str, moving: str) -> AffineTransform:
        volumes = []
        for name, path in (("fixed", fixed), ("moving", moving)):
            image = load_image(path)
            volumes.append(Volume.prepare(name, image.as_tensor(), Grid.from_image(image)))
        return register_one_plus_one_es(*volumes, pose=pose)

    return register


def _ants(fixed: str, moving: str) -> AffineTransform:
    import ants

    result = ants.registration(ants.image_read(fixed), ants.image_read(moving), type_of_transform="Rigid")
    return _affine(result["fwdtransforms"][0])


def _elastix(fixed: str, moving: str) -> AffineTransform:
    parameters = itk.ParameterObject.New()
    settings = parameters.GetDefaultParameterMap("rigid", 4)
    settings["AutomaticTransformInitialization"] = ["true"]
    settings["AutomaticTransformInitializationMethod"] = ["CenterOfGravity"]
    settings["WriteResultImage"] = ["false"]
    parameters.AddParameterMap(settings)
    method = itk.ElastixRegistrationMethod.New(itk.imread(fixed, itk.F), itk.imread(moving, itk.F))
    method.SetParameterObject(parameters)
    try:
        method.UpdateLargestPossibleRegion()
    except RuntimeError:  # "Too many samples map outside moving image buffer": its way to give up
        return AffineTransform.identity(3)
    found = method.GetTransformParameterObject().GetParameterMap(0)
    x, y, z, *shift = map(float, found["TransformParameters"])
    center = np.array([float(word) for word in found["CenterOfRotationPoint"]])
    assert found["ComputeZYX"][0] == "false"  # ITK's Euler3DTransform then is Rz Rx Ry (p - c) + c + t
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("ZXY", [z, x, y]).as_matrix()
    matrix[:3, 3] = center + shift - matrix[:3, :3] @ center
    return AffineTransform(flip_matrix(torch.from_numpy(matrix)))


def _affine(path: str) -> AffineTransform:
    transform = read_transform(path)
    assert isinstance(transform, AffineTransform)
    return transform


@cache
def elsewhere() -> Any:
    """Return the pool of one process in which elastix runs.

    Where another part of ITK was used before, it takes a minute more.
    """
    return get_context("spawn").Pool(1)


METHODS: dict[str, Callable[[str, str], AffineTransform]] = {
    "regplugins": _regplugins,
    "evolution": _evolution(pose=False),
    "evolution_from_pose": _evolution(pose=True),
    "ants": _ants,
    "elastix": lambda *paths: elsewhere().apply(_elastix, paths),
}

if __name__ == "__main__":
    fire.Fire(main)
