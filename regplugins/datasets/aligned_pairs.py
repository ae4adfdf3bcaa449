# SPDX-License-Identifier: Apache-2.0
"""Alignment of pairs of two modalities, for training with dual-modality supervision."""

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
from regplugins.datasets.datalist import write_datalist
from regplugins.io import atomic, output_folder, refuse_overwriting_inputs, write_image, write_transform
from regplugins.io.images import load_image, load_label
from regplugins.metrics import label_overlap, mean_overlap
from regplugins.registration import align_labels, initial_transform
from regplugins.spatial import AffineTransform, Grid, SpatialTransform, resample_labels, resample_to_grid

logger = logging.getLogger(__name__)

# Folder of a patient's images in the shape of the moving one, and the end of its name as a subject.
_MOVING = "moving"


def prepare_aligned_pairs(
    datalist: str | Path,
    target: str | Path,
    modalities: Sequence[str] = ("ct", "mr"),
    spacing: float | None = None,
    validation: int = 1,
    seed: int = 0,
) -> Path:
    """Align the two images of every subject, resample all subjects to a common grid, and list them for training.

    As Cao et al. (MLMI 2018, section 3) prepare their data, without their SyN step. Within a subject an affine
    transform by mutual information is followed by demons on the labels, if both images have labels. Between subjects an
    affine transform aligns each with the first one. With labels the two images are also aligned in the shape of the
    moving image after the affine transform. Each image is resampled once. Labels are used here alone: training does not
    need them.

    Args:
        datalist: JSON file, a list of pair records (see ``pair_records``) with ``fixed`` and ``moving`` image of a
            subject, optionally ``fixed_label`` and ``moving_label``, and ``name``.
        target: folder for what is written, made if need be.
        modalities: names of the fixed and of the moving images' modality.
        spacing: of the common grid, mm. Default: that of the first fixed image.
        validation: number of subjects, the last ones, in ``validation_images``. With 0 the section is empty.
        seed: of the mutual information.

    Returns:
        ``datalist.json`` in ``target`` with ``training`` and ``validation_images``: records with ``image``,
        ``subject``, ``patient`` and ``sequence``. In the moving image's shape a subject's name ends with ``_moving``,
        and its images are in ``moving``. Beside the images of each patient lie its transforms.
        ``aligned_0GenericAffine.mat`` and, with labels, ``aligned_1Warp.nii.gz`` map the fixed to the moving image's
        world, and ``aligned_1InverseWarp.nii.gz`` is the inverse warp. ``common_0GenericAffine.mat`` maps the common to
        the fixed image's world. ``alignment.json`` holds the labels' Dice: ``scanned``, after the ``affine`` transform,
        after the demons by ``labels``, and with these in the moving image's shape, ``labels_moving``.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if no subject remains to train on, an image would be overwritten, or images cannot be aligned.
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
    places = product(records, (".", _MOVING), modalities)
    outputs = [target / record["name"] / shape / f"{modality}.nii.gz" for record, shape, modality in places]
    refuse_overwriting_inputs(outputs, inputs)
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
    return write_datalist(sections, target)


def _is_a_name(modality: object) -> bool:
    """True for a plain file name."""
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
    """Align one subject and write its images and transforms; its records."""
    fixed, moving = load_image(record["fixed"]), load_image(record["moving"])
    to_fixed = AffineTransform.identity(common.ndim)
    if record["fixed"] != first:
        _, to_fixed = initial_transform("affine", reference, fixed, seed)
    _, affine = initial_transform("affine", fixed, moving, seed)
    folder.mkdir(parents=True, exist_ok=True)
    # Maps from the common world to the fixed and to the moving image's, by the folder of the images.
    transforms: dict[str, tuple[SpatialTransform, SpatialTransform]] = {".": (to_fixed, affine @ to_fixed)}
    if "fixed_label" in record and "moving_label" in record:
        field, inverse = _align_by_labels(record, affine, folder)
        transforms = {
            ".": (to_fixed, affine @ field @ to_fixed),
            _MOVING: (inverse @ to_fixed, affine @ to_fixed),
        }
    else:
        # Files of an earlier run with labels.
        stale = (f"{_MOVING}/{modality}.nii.gz" for modality in modalities)
        for name in ("aligned_1Warp.nii.gz", "aligned_1InverseWarp.nii.gz", "alignment.json", *stale):
            (folder / name).unlink(missing_ok=True)
        logger.warning(
            "subject '%s': labels of both images are not given, it is aligned affinely alone", record["name"]
        )
    write_transform(affine, folder / "aligned_0GenericAffine.mat")
    write_transform(to_fixed, folder / "common_0GenericAffine.mat")
    records = []
    for shape, maps in transforms.items():
        subject = "_".join((record["name"], *Path(shape).parts))
        (folder / shape).mkdir(exist_ok=True)
        for modality, image, transform in zip(modalities, (fixed, moving), maps, strict=True):
            path = folder / shape / f"{modality}.nii.gz"
            write_image(resample_to_grid(image, common, transform), common, path)
            entry = {"image": path.relative_to(folder.parent).as_posix(), "subject": subject}
            records.append(entry | {"patient": record["name"], "sequence": modality})
    return records


def _align_by_labels(
    record: dict[str, str], affine: SpatialTransform, folder: Path
) -> tuple[SpatialTransform, SpatialTransform]:
    """Register the labels by demons after the affine transform, and write the warps and the Dice; both warps."""
    fixed, moving = (load_label(record[f"{side}_label"]) for side in ("fixed", "moving"))
    grid, moving_grid = (Grid.from_image(label) for label in (fixed, moving))
    fixed = fixed.as_tensor()

    def warped(transform: SpatialTransform) -> torch.Tensor:
        return resample_labels(moving.as_tensor(), moving_grid, grid, transform)

    def dice(first: torch.Tensor, second: torch.Tensor) -> float:
        return mean_overlap(label_overlap(first, second, grid.spacing.tolist()))["dice"]

    field = align_labels(fixed, warped(affine), grid)
    inverse = field.inverse(grid)
    steps = {"scanned": AffineTransform.identity(grid.ndim), "affine": affine, "labels": affine @ field}
    found = {name: dice(warped(step), fixed) for name, step in steps.items()}
    found["labels_moving"] = dice(resample_labels(fixed, grid, grid, inverse), warped(affine))
    with atomic(folder / "alignment.json") as temporary:
        temporary.write_text(json.dumps({"dice": found}, indent=2) + "\n", encoding="utf-8")
    write_transform(field, folder / "aligned_1Warp.nii.gz")
    write_transform(inverse, folder / "aligned_1InverseWarp.nii.gz")
    return field, inverse
