# SPDX-License-Identifier: Apache-2.0
"""Aligned images of two modalities out of pairs that are not aligned: what dual-modality supervision learns from."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import chain, product
from pathlib import Path

import torch
from monai.data import MetaTensor
from tqdm import tqdm

from regplugins.checks import positive, whole
from regplugins.data.records import pair_records
from regplugins.io import atomic, keep_inputs, output_folder, write_image, write_transform
from regplugins.io.images import load_image, load_label
from regplugins.metrics import label_overlap, mean_overlap
from regplugins.registration import align_labels, initial_transform
from regplugins.spatial import AffineTransform, Grid, SpatialTransform, resample_labels, resample_to_grid

logger = logging.getLogger(__name__)

# Folder of a patient's images in the moving one's shape, and what its name as a subject ends with.
_MOVING = "moving"


def prepare_aligned_pairs(
    datalist: str | Path,
    target: str | Path,
    modalities: Sequence[str] = ("ct", "mr"),
    spacing: float | None = None,
    validation: int = 1,
    seed: int = 0,
) -> Path:
    """Align the two images of every subject, bring all subjects to a common world, and list them for training.

    As Cao et al. (MLMI 2018, section 3) prepare their data: an affine transform by mutual information within
    a subject, then, where both images have labels, demons on these; between subjects an affine transform to the first
    one. (The paper's SyN between the two steps is left out.) Where there are labels, the two are aligned in the moving
    image's shape too, as the affine transform leaves it: the paper's pairs are then those of a patient's fixed image in
    its own shape and moving image in its own, each with the other modality's image aligned with it. Each image is
    resampled once. Labels serve here alone: training does not see them.

    Args:
        datalist: JSON file, a list of pair records (see ``pair_records``): ``fixed`` and ``moving`` image of a subject,
            perhaps ``fixed_label`` and ``moving_label``, and ``name``.
        target: folder for what is written, made if need be.
        modalities: names of the fixed and the moving images' one.
        spacing: of the common grid, mm; default: that of the first fixed image.
        validation: how many subjects, the last ones, go into ``validation_images``; with 0 there is no such section
            to train with but one of your own.
        seed: of the mutual information.

    Returns:
        ``datalist.json`` in ``target``: ``training`` and ``validation_images``, records with ``image``, ``subject``,
        ``patient`` and ``sequence``. A patient is a subject by its name, and, in the moving image's shape, by its name
        and ``_moving``, the images of which are in ``moving``. Beside the images lie, for each patient, the transforms:
        ``aligned_0GenericAffine.mat`` and, of labels, ``aligned_1Warp.nii.gz`` from the fixed image's world to the
        moving one's, as a registration writes them, and ``aligned_1InverseWarp.nii.gz``;
        ``common_0GenericAffine.mat`` from the common world to the fixed image's; and ``alignment.json``, the labels'
        Dice ``scanned``, after the ``affine`` transform, after the demons by ``labels``, and with these in the moving
        image's shape, ``labels_moving``.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: no subject beside those to validate on, an image that would be overwritten, or images that cannot be
            aligned.
    """
    records = pair_records({}, datalist, "")
    named = isinstance(modalities, Sequence) and not isinstance(modalities, str)
    if not named or len(modalities) != 2 or len(set(modalities)) != 2 or not all(map(_is_a_name, modalities)):
        raise ValueError(f"modalities must be two names, of the fixed and of the moving images, got {modalities!r}")
    validation = whole("validation", validation, minimum=0)
    if validation >= len(records):
        raise ValueError(f"{datalist}: {len(records)} subjects less {validation} to validate on leave none to train on")
    names = {record["name"] for record in records}
    twice = sorted(name for name in names if f"{name}_{_MOVING}" in names)
    if twice:
        raise ValueError(
            f"{datalist}: '{twice[0]}_{_MOVING}' is what '{twice[0]}' in its moving image's shape is called"
        )
    target = output_folder(target)
    inputs = [path for record in records for key, path in record.items() if key != "name"]
    for record, modality, shape in product(records, modalities, (".", _MOVING)):
        keep_inputs(target / record["name"] / shape / f"{modality}.nii.gz", inputs)
    first = records[0]["fixed"]
    reference = load_image(first)
    common = Grid.from_image(reference).canonical()
    if spacing is not None:
        common = common.resized([positive("spacing", spacing)] * common.ndim)
    images: list[list[dict[str, str]]] = []
    for record in tqdm(records, desc="subjects"):
        try:
            images.append(_aligned(record, first, reference, common, target / record["name"], modalities, seed))
        except ValueError as error:
            raise ValueError(f"subject '{record['name']}': {error}") from error
    count = len(images) - validation
    parts = {"training": images[:count], "validation_images": images[count:]}
    sections = {name: list(chain.from_iterable(part)) for name, part in parts.items()}
    with atomic(target / "datalist.json") as temporary:
        temporary.write_text(json.dumps(sections, indent=2) + "\n", encoding="utf-8")
    return target / "datalist.json"


def _is_a_name(modality: object) -> bool:
    """Whether a file can be called so."""
    return isinstance(modality, str) and modality not in ("", ".", "..") and modality == Path(modality).name


def _aligned(
    record: dict[str, str],
    first: str,
    reference: MetaTensor,
    common: Grid,
    folder: Path,
    modalities: Sequence[str],
    seed: int,
) -> list[dict[str, str]]:
    """Align one subject and write it; its records."""
    fixed, moving = load_image(record["fixed"]), load_image(record["moving"])
    grids = [Grid.from_image(image) for image in (reference, fixed, moving)]
    to_fixed = AffineTransform.identity(common.ndim)
    if record["fixed"] != first:
        to_fixed = initial_transform("affine", reference.as_tensor(), grids[0], fixed.as_tensor(), grids[1], seed=seed)
    affine = initial_transform("affine", fixed.as_tensor(), grids[1], moving.as_tensor(), grids[2], seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    # From the common world to that of the fixed and to that of the moving image, by the folder of what is written.
    ways: dict[str, tuple[SpatialTransform, SpatialTransform]] = {".": (to_fixed, affine @ to_fixed)}
    if "fixed_label" in record and "moving_label" in record:
        labels = [load_label(record[f"{side}_label"]) for side in ("fixed", "moving")]
        own, grid = labels[0].as_tensor(), Grid.from_image(labels[0])

        def carried(transform: SpatialTransform) -> torch.Tensor:
            return resample_labels(labels[1].as_tensor(), Grid.from_image(labels[1]), grid, transform)

        def dice_of(first: torch.Tensor, second: torch.Tensor) -> float:
            return mean_overlap(label_overlap(first, second, grid.spacing.tolist()))["dice"]

        field = align_labels(own, carried(affine), grid)
        inverse = field.inverse()
        ways = {
            ".": (to_fixed, affine @ field @ to_fixed),
            _MOVING: (inverse @ to_fixed, affine @ to_fixed),
        }
        steps = {"scanned": AffineTransform.identity(grid.ndim), "affine": affine, "labels": affine @ field}
        dice = {name: dice_of(carried(step), own) for name, step in steps.items()}
        dice["labels_moving"] = dice_of(resample_labels(own, grid, grid, inverse), carried(affine))
        with atomic(folder / "alignment.json") as temporary:
            temporary.write_text(json.dumps({"dice": dice}, indent=2) + "\n", encoding="utf-8")
        write_transform(field, folder / "aligned_1Warp.nii.gz")
        write_transform(inverse, folder / "aligned_1InverseWarp.nii.gz")
    else:
        stale = (f"{_MOVING}/{modality}.nii.gz" for modality in modalities)
        # of an earlier run with labels
        for name in ("aligned_1Warp.nii.gz", "aligned_1InverseWarp.nii.gz", "alignment.json", *stale):
            (folder / name).unlink(missing_ok=True)
        logger.warning(
            "subject '%s': labels of both images are not given, it is aligned affinely alone", record["name"]
        )
    write_transform(affine, folder / "aligned_0GenericAffine.mat")
    write_transform(to_fixed, folder / "common_0GenericAffine.mat")
    records = []
    for shape, transforms in ways.items():
        subject = "_".join((record["name"], *Path(shape).parts))
        (folder / shape).mkdir(exist_ok=True)
        for modality, image, transform in zip(modalities, (fixed, moving), transforms, strict=True):
            path = folder / shape / f"{modality}.nii.gz"
            write_image(resample_to_grid(image, common, transform), common, path)
            entry = {"image": path.relative_to(folder.parent).as_posix(), "subject": subject}
            records.append(entry | {"patient": record["name"], "sequence": modality})
    return records
