# SPDX-License-Identifier: Apache-2.0
"""`apply`, `compose`, `convert` and `invert`: work with transform files of any tool."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import regplugins  # its parts, and MONAI with them, are loaded when a command needs them: help should not wait

if TYPE_CHECKING:
    from regplugins.spatial import Transform

logger = logging.getLogger(__name__)

# Mean residual in mm from which an inverse is not to be trusted.
_POOR_INVERSE = 0.5


def apply(
    *transforms: str,
    output: str,
    reference: str | None = None,
    image: str | None = None,
    label: str | None = None,
    landmarks: str | None = None,
    landmark_space: str = "RAS",
    inverse: bool = False,
    interpolation: str = "linear",
    fill: float = 0.0,
) -> dict[str, Any]:
    """Send an image, a label map or landmarks through transform files.

    Images go from the moving to the fixed scan, landmarks from the fixed to the moving one; with --inverse each goes
    the other way.

    Args:
        transforms: files in the order of antsApplyTransforms: transform_1Warp.nii.gz transform_0GenericAffine.mat;
            [file,1] is a file's inverse.
        output: file to write; NIfTI, or CSV for landmarks.
        reference: scan whose grid the result gets: the fixed one; with --inverse the moving one. Landmarks need none.
        image: scan to resample.
        label: label map to resample instead; its values and its type are kept.
        landmarks: CSV file with x,y,z in mm to carry instead.
        landmark_space: "RAS" or "LPS", the world of the CSV's numbers.
        inverse: go back.
        interpolation: of the image, "linear" or "nearest".
        fill: value outside the image.
    """
    logger.info("reading %d transforms", len(transforms))
    chain = regplugins.io.read_chain(transforms)
    result: dict[str, Any] = {}
    if regplugins.checks.boolean("inverse", inverse):
        logger.info("inverting")
        chain = ~chain
        result = _what_inversion_left(chain)
    given = {key: path for key, path in (("image", image), ("label", label), ("landmarks", landmarks)) if path}
    if len(given) != 1:
        raise ValueError(f"give one of --image, --label and --landmarks, got {sorted(given)}")
    ((kind, path),) = given.items()
    regplugins.io.keep_inputs(output, [*regplugins.io.chain_files(transforms), path, reference])
    meant = {"landmarks": ("landmark_space",), "label": ("reference",), "image": ("reference", "interpolation", "fill")}
    chosen = {"reference": reference is not None, "landmark_space": landmark_space != "RAS"}
    chosen |= {"interpolation": interpolation != "linear", "fill": fill != 0}
    useless = [option for option, is_chosen in chosen.items() if is_chosen and option not in meant[kind]]
    if useless:
        raise ValueError(f"--{useless[0]} says nothing about --{kind}")
    if kind == "landmarks":
        _carry_landmarks(chain, path, output, landmark_space)
    else:
        _resample_file(chain, kind, path, output, reference, interpolation, fill)
    return {kind: output, **result}


def compose(*transforms: str, output: str, reference: str | None = None) -> dict[str, Any]:
    """Make one transform file of several.

    Args:
        transforms: files in the order of antsApplyTransforms: of a fixed point, the first named is applied first.
        output: .h5 keeps the parts; .nii.gz is one displacement field on the reference's grid; .mat, .tfm or .txt if
            all parts are affine.
        reference: scan whose grid a displacement field gets: the fixed one. Default: that of the field that is
            applied first.
    """
    return _write(regplugins.io.read_chain(transforms), output, reference, transforms)


def convert(transform: str, output: str, reference: str | None = None) -> dict[str, Any]:
    """Write a transform file in another form; the endings say which.

    Args:
        transform: .mat, .tfm, .txt, .h5 or .nii.gz.
        output: .mat, .tfm, .txt (affine transforms), .h5 (any) or .nii.gz (a displacement field).
        reference: scan whose grid a displacement field gets. Default: that of the field that is applied
            first.
    """
    return _write(regplugins.io.read_chain([transform]), output, reference, [transform])


def invert(*transforms: str, output: str, reference: str | None = None) -> dict[str, Any]:
    """Write the inverse of a transform, or of several one after the other.

    Affine parts are inverted exactly, displacement fields by fixed-point iteration: the command says what that leaves,
    in mm.

    Args:
        transforms: files in the order of antsApplyTransforms.
        output: as for compose.
        reference: scan whose grid a displacement field gets: the moving one. Default: that of the field that is
            applied first.
    """
    logger.info("inverting")
    inverse = ~regplugins.io.read_chain(transforms)
    return _write(inverse, output, reference, transforms) | _what_inversion_left(inverse)


def _write(transform: Transform, output: str, reference: str | None, inputs: Sequence[Any]) -> dict[str, Any]:
    """Write a transform in the form that the output's name asks for."""
    grid = None if reference is None else regplugins.data.load_grid(reference)
    if grid is not None and grid.ndim != transform.ndim:
        raise ValueError(f"{reference}: {grid.ndim}-D, the transform is {transform.ndim}-D")
    regplugins.io.keep_inputs(output, [*regplugins.io.chain_files(inputs), reference])
    regplugins.io.write_chain(transform, output, grid)
    return {"transform": output}


def _what_inversion_left(inverse: Transform) -> dict[str, float]:
    """How far, in mm, inverted displacement fields are from being inverses; nothing if all parts are affine."""
    parts = regplugins.spatial.CompositeTransform([inverse]).transforms
    fields = [part for part in parts if isinstance(part, regplugins.spatial.DisplacementField)]
    left = [field.residual for field in fields if field.residual is not None]
    if not left:
        return {}
    mean, largest = max(float(part.mean()) for part in left), max(float(part.max()) for part in left)
    if mean > _POOR_INVERSE:
        logger.warning("the inverse of a displacement field is off by %.1f mm in the mean: does the field fold?", mean)
    return {"residual_mean_mm": mean, "residual_max_mm": largest}


def _carry_landmarks(transform: Transform, path: str, output: str, space: str) -> None:
    if not str(output).endswith(".csv"):
        raise ValueError(f"{output}: landmarks are written as .csv")
    points = regplugins.io.read_landmarks(path, space)
    if points.shape[1] != transform.ndim:
        raise ValueError(f"{path}: {points.shape[1]}-D points, the transform is {transform.ndim}-D")
    regplugins.io.write_landmarks(transform(points), output, space, regplugins.io.read_landmark_names(path))


def _resample_file(
    transform: Transform, kind: str, path: str, output: str, reference: str | None, interpolation: str, fill: float
) -> None:
    if not str(output).endswith((".nii", ".nii.gz")):
        raise ValueError(f"{output}: an image is written as .nii or .nii.gz")
    if reference is None:
        raise ValueError("give --reference, the scan whose grid the result gets")
    target = regplugins.data.load_grid(reference)
    volume = regplugins.data.load_label(path) if kind == "label" else regplugins.data.load_image(path)
    source = regplugins.spatial.Grid.from_image(volume)
    for name, grid in ((reference, target), (path, source)):
        if grid.ndim != transform.ndim:
            raise ValueError(f"{name}: {grid.ndim}-D, the transform is {transform.ndim}-D")
    if not regplugins.spatial.overlap(target, source, transform):
        raise ValueError(f"{reference} and {path} do not overlap through the transform: the result would be empty")
    logger.info("resampling %s", path)
    if kind == "label":
        result = regplugins.spatial.resample_labels(volume.as_tensor(), source, target, transform)
        regplugins.io.write_image(result, target, output, volume.meta["stored_dtype"])
    else:
        result = regplugins.spatial.resample(volume.as_tensor(), source, target, transform, interpolation, float(fill))
        regplugins.io.write_image(result, target, output)
