# SPDX-License-Identifier: Apache-2.0
"""Small data sets of realistic images, made of the bundles' samples."""

import json
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from regplugins.data import RandomWarp
from regplugins.io import load_image, load_label, write_displacement, write_image, write_transform
from regplugins.spatial import DisplacementField, Grid, resample, resample_labels, resample_to_grid


def labeled_warps(bundle: Path, folder: Path) -> None:
    """The sample's labeled image under smooth random warps, scaled as differently as scanners do."""
    image, label = load_image(bundle / "sample/moving.nii.gz"), load_label(bundle / "sample/moving_label.nii.gz")
    grid = Grid.from_image(image)
    generator = torch.Generator().manual_seed(0)
    records: list[dict[str, str]] = []
    for case in range(7):
        coarse = 4 * torch.randn(1, 3, 5, 5, 5, generator=generator)
        vectors = torch.nn.functional.interpolate(coarse, grid.shape, mode="trilinear", align_corners=True)[0]
        warp = DisplacementField(vectors, grid)
        scale = 20.0 ** float(torch.rand((), generator=generator))
        paths = {key: folder / f"{key}_{case}.nii.gz" for key in ("image", "label")}
        write_image(scale * resample(image.as_tensor(), grid, grid, warp), grid, paths["image"])
        write_image(resample_labels(label.as_tensor(), grid, grid, warp), grid, paths["label"], np.uint8)
        records.append({key: str(path) for key, path in paths.items()})
    sections = {"training": records[:3], "validation": records[3:5], "test": records[5:]}
    (folder / "datalist.json").write_text(json.dumps(sections))


def brain_sequences(bundle: Path, folder: Path, warp: RandomWarp | None = None) -> None:
    """The sample's two brains at 4 mm, each in two contrasts; pairs of one brain's contrasts, the fixed one under a
    known random warp.

    ``training`` and ``validation_images`` have the images, ``contrasts`` has them and a label map. ``validation`` and
    ``test`` have a pair of each brain with its ``truth``, ``labeled`` one of the moving sample with its left and right
    structures instead.
    """
    sections: dict[str, list[dict[str, str]]] = {key: [] for key in ("training", "validation", "test", "labeled")}
    for subject, sequence, other in (("fixed", "t1", "t2"), ("moving", "t2", "t1")):
        image = load_image(bundle / f"sample/{subject}.nii.gz")
        grid = Grid.from_image(image).canonical().resized([4.0] * 3)
        values = resample_to_grid(image, grid)
        brain = {sequence: values, other: _other_contrast(values)}
        paths = {key: folder / f"{subject}_{key}.nii.gz" for key in brain}
        for key, path in paths.items():
            write_image(brain[key], grid, path)
            sections["training"].append({"image": str(path), "subject": subject, "sequence": key})
        for seed, section in enumerate(("validation", "test"), start=1):
            truth = (warp or RandomWarp()).set_random_state(seed)(grid).sample(grid)
            target = {key: folder / f"{section}_{subject}_{key}.nii.gz" for key in ("fixed", "fixed_mask", "truth")}
            write_image(resample(brain["t1"], grid, grid, truth), grid, target["fixed"])
            write_image(resample_labels((values > 0).int(), grid, grid, truth), grid, target["fixed_mask"], np.uint8)
            write_displacement(truth, target["truth"])
            pair = {key: str(path) for key, path in (target | {"moving": paths["t2"]}).items()}
            sections[section].append({"name": subject, **pair})
    # Of the last pair of the test section, the moving sample's: in the atlas left structures are odd, right ones even.
    label = load_label(bundle / "sample/moving_label.nii.gz")
    sides = torch.where(label > 0, 1 + label % 2, 0).as_tensor()
    labels = {key: folder / f"{key}.nii.gz" for key in ("fixed_label", "moving_label")}
    write_image(resample_labels(sides, Grid.from_image(label), grid, truth), grid, labels["fixed_label"], np.uint8)
    write_image(resample_labels(sides, Grid.from_image(label), grid), grid, labels["moving_label"], np.uint8)
    images = {key: pair[key] for key in ("fixed", "moving")}
    sections["labeled"].append(images | {key: str(path) for key, path in labels.items()})
    sections["validation_images"] = sections["training"]
    shown = {"label_map": str(labels["moving_label"]), "subject": "moving", "sequence": "structures"}
    sections["contrasts"] = [*sections["training"], shown]
    (folder / "datalist.json").write_text(json.dumps(sections))


def aligned_limb(bundle: Path, folder: Path) -> None:
    """The sample's CT and an MR of its tissues at 3 mm; pairs in both orders, the fixed one under a known warp."""
    ct, label = load_image(bundle / "sample/moving.nii.gz"), load_label(bundle / "sample/moving_label.nii.gz")
    grid = Grid.from_image(ct).canonical().resized([3.0] * 3)
    tissues = MetaTensor(torch.tensor([0.0, 900, 330, 40, 780])[label.as_tensor().long()], affine=label.affine)
    limb = {"ct": resample_to_grid(ct, grid), "mr": resample_to_grid(tissues, grid)}
    body = resample_labels((label.as_tensor() > 0).int(), Grid.from_image(label), grid)
    paths = {key: folder / f"{key}.nii.gz" for key in limb}
    for key, path in paths.items():
        write_image(limb[key], grid, path)
    images = [{"image": str(path), "subject": "sample", "sequence": key} for key, path in paths.items()]
    sections: dict[str, list[dict[str, str]]] = {"training": images, "validation_images": images}
    for section, first in (("validation", 1), ("test", 3)):
        sections[section] = []
        for seed, (fixed, moving) in enumerate((("ct", "mr"), ("mr", "ct")), start=first):
            truth = RandomWarp().set_random_state(seed)(grid).sample(grid)
            target = {key: folder / f"{section}_{seed}_{key}.nii.gz" for key in ("fixed", "fixed_mask", "truth")}
            write_image(resample(limb[fixed], grid, grid, truth, fill=None), grid, target["fixed"])
            write_image(resample_labels(body, grid, grid, truth), grid, target["fixed_mask"], np.uint8)
            write_displacement(truth, target["truth"])
            files = {key: str(path) for key, path in (target | {"moving": paths[moving]}).items()}
            sections[section].append({"name": f"{fixed}_{moving}", **files})
    (folder / "datalist.json").write_text(json.dumps(sections))


def moved_heads(bundle: Path, folder: Path) -> None:
    """The sample's T1 at 4 mm, and the same in another contrast in the place of a CT, turned and shifted."""
    image = load_image(bundle / "sample/fixed.nii.gz")
    grid = Grid.from_image(image).canonical().resized([4.0] * 3)
    head = {"t1": resample_to_grid(image, grid)}
    head["ct"] = _other_contrast(head["t1"])
    sections: dict[str, list[dict[str, str]]] = {"training": []}
    for key, values in head.items():
        write_image(values, grid, folder / f"{key}.nii.gz")
        sections["training"].append({"image": f"{key}.nii.gz", "subject": "sample", "sequence": key})
    write_image(head["t1"] > 0, grid, folder / "mask.nii.gz", np.uint8)
    for section, degrees in (("validation_15", 15.0), ("validation_45", 45.0), ("test_15", 15.0)):
        motions = RandomWarp(0.0, rotation=degrees, translation=5.0, scaling=0.0).set_random_state(len(sections))
        sections[section] = []
        for number in range(2):
            name, truth = f"{section}_{number}", motions.affine(grid)
            write_image(
                resample_to_grid(load_image(folder / "ct.nii.gz"), grid, truth.inverse()),
                grid,
                folder / f"{name}.nii.gz",
            )
            write_transform(truth, folder / f"{name}.mat")
            pair = {
                "fixed": "t1.nii.gz",
                "moving": f"{name}.nii.gz",
                "fixed_mask": "mask.nii.gz",
                "truth": f"{name}.mat",
            }
            sections[section].append({"name": name, **pair})
    (folder / "datalist.json").write_text(json.dumps(sections))


def slices_of(data: Path, folder: Path) -> Path:
    """The data of ``brain_sequences`` with sections ``slices`` and ``slices_validation``: axial slices of either brain
    in two contrasts, the fixed one under a known random warp.
    """
    sections = json.loads((data / "datalist.json").read_text())
    pairs = []
    for number, subject in enumerate(("fixed", "moving")):
        images = {key: load_image(data / f"{subject}_{key}.nii.gz") for key in ("t1", "t2")}
        middle = images["t1"].shape[3] // 2
        cut = {key: image.as_tensor()[..., middle] for key, image in images.items()}
        grid = Grid(cut["t1"].shape[1:], torch.diag(torch.tensor([4.0, 4.0, 1.0], dtype=torch.float64)))
        truth = RandomWarp().set_random_state(number)(grid).sample(grid)
        paths = {key: folder / f"{subject}_{key}.nii.gz" for key in ("fixed", "moving", "fixed_mask", "truth")}
        write_image(resample(cut["t1"], grid, grid, truth), grid, paths["fixed"])
        write_image(cut["t2"], grid, paths["moving"])
        write_image(resample_labels((cut["t1"] > 0).int(), grid, grid, truth), grid, paths["fixed_mask"], np.uint8)
        write_displacement(truth, paths["truth"])
        pairs.append({"name": subject, **{key: str(path) for key, path in paths.items()}})
    sections |= {"slices": pairs, "slices_validation": pairs}
    (folder / "datalist.json").write_text(json.dumps(sections))
    return folder


def _other_contrast(image: Tensor) -> Tensor:
    """Invert the intensities of the foreground."""
    return torch.where(image > 0, 1.1 * image.max() - image, 0)
