# SPDX-License-Identifier: Apache-2.0
"""`apply`, `compose`, `invert` and `convert`: transform files of any tool."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import regplugins

if TYPE_CHECKING:
    from regplugins.spatial import DisplacementField, SpatialTransform

logger = logging.getLogger(__name__)

# Largest residual in mm from which an inverse is not to be trusted.
_POOR_INVERSE = 0.5
_FOLDS = (
    "a displacement field folds at %.3g %% of its voxels: there it has no inverse, and the result holds one of the "
    "points that it maps to the same place"
)


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
    fill: float | None = None,
) -> dict[str, Any]:
    """Apply transform files to an image, a label map or landmarks.

    Images are resampled from the moving to the fixed scan. Landmarks are mapped from the fixed to the moving scan. With
    --inverse each goes the other way.

    Args:
        transforms: files in the order of antsApplyTransforms: transform_1Warp.nii.gz transform_0GenericAffine.mat;
            [file,1] is a file's inverse.
        output: file to write; NIfTI, or CSV for landmarks.
        reference: scan that gives the grid of the result: the fixed one; with --inverse the moving one. Landmarks need
            none.
        image: scan to resample.
        label: label map to resample instead; its values and its type are kept.
        landmarks: CSV with x,y,z in mm, or a file of Slicer, to map instead.
        landmark_space: coordinate system of a CSV, "RAS" or "LPS".
        inverse: apply the inverse.
        interpolation: interpolation of the image, "linear" or "nearest".
        fill: value outside the image; default: -1024 of a CT, else 0.
    """
    inverse = regplugins.checks.boolean("inverse", inverse)
    fill = None if fill is None else regplugins.checks.number("fill", fill)
    given = {key: path for key, path in (("image", image), ("label", label), ("landmarks", landmarks)) if path}
    if len(given) != 1:
        raise ValueError(f"give one of --image, --label and --landmarks, got {sorted(given)}")
    ((kind, path),) = given.items()
    regplugins.io.refuse_overwriting_inputs([output], [*regplugins.io.chain_files(transforms), path, reference])
    meant = {"landmarks": ("landmark_space",), "label": ("reference",), "image": ("reference", "interpolation", "fill")}
    chosen = {"reference": reference is not None, "landmark_space": landmark_space != "RAS"}
    chosen |= {"interpolation": interpolation != "linear", "fill": fill is not None}
    useless = [option for option, is_chosen in chosen.items() if is_chosen and option not in meant[kind]]
    if useless:
        raise ValueError(f"--{useless[0]} says nothing about --{kind}")
    _check_applied(kind, output, reference)
    logger.info("reading %d transforms", len(transforms))
    chain = regplugins.io.read_chain(transforms)
    result: dict[str, Any] = {}
    if inverse:
        chain, result = _inverted(chain)
    if kind == "landmarks":
        _map_landmarks(chain, path, output, landmark_space)
    else:
        _resample_file(chain, kind, path, output, reference, interpolation, fill)
    return {kind: output, **result}


def compose(*transforms: str, output: str, reference: str | None = None) -> dict[str, Any]:
    """Compose transform files to one.

    Args:
        transforms: files in the order of antsApplyTransforms: the first one is applied to a fixed point first.
        output: file to write: .h5 keeps the parts, .nii.gz is one displacement field on the reference's grid, .mat,
            .tfm and .txt hold affine transforms alone.
        reference: scan that gives the grid of a displacement field: the fixed one. Default: the grid of the field that
            is applied first.
    """
    return _write(transforms, output, reference)


def convert(transform: str, output: str, reference: str | None = None) -> dict[str, Any]:
    """Convert a transform file to another format; the file endings give the formats.

    Args:
        transform: file to read: .mat, .tfm, .txt, .h5 or .nii.gz.
        output: file to write: .mat, .tfm, .txt (affine transforms), .h5 (any) or .nii.gz (a displacement field).
        reference: scan that gives the grid of a displacement field. Default: the grid of the field that is applied
            first.
    """
    return _write([transform], output, reference)


def invert(*transforms: str, output: str, reference: str | None = None) -> dict[str, Any]:
    """Invert transform files, composed in the order given.

    Affine parts are inverted exactly, displacement fields iteratively. The residual of the iteration is reported in mm,
    with its place (RAS mm). A field that folds has no inverse there, and a warning says so.

    Args:
        transforms: files in the order of antsApplyTransforms.
        output: file to write, as for compose.
        reference: scan that gives the grid of a displacement field: the moving one. Default: the grid of the field that
            is applied first.
    """
    return _write(transforms, output, reference, inverse=True)


def _write(files: Sequence[str], output: str, reference: str | None, inverse: bool = False) -> dict[str, Any]:
    """Write the composition of files, or its inverse, in the format of the output's ending."""
    names = regplugins.io.chain_files(files)
    regplugins.io.refuse_overwriting_inputs([output], [*names, reference])
    by_name = [regplugins.io.may_hold_field(name) for name in names]
    regplugins.io.check_output(output, by_name[::-1] if inverse else by_name, reference is not None)
    grid = None if reference is None else regplugins.io.load_grid(reference)
    chain = regplugins.io.read_chain(files)
    if grid is not None and grid.ndim != chain.ndim:
        raise ValueError(f"{reference}: {grid.ndim}-D, the transform is {chain.ndim}-D")
    result: dict[str, Any] = {}
    if inverse:
        # A composite file says only when it is read what it holds, and inversion takes long.
        regplugins.io.check_output(output, regplugins.io.are_fields(chain)[::-1], grid is not None)
        chain, result = _inverted(chain)
    regplugins.io.write_chain(chain, output, grid)
    return {"transform": output, **result}


def _inverted(chain: SpatialTransform) -> tuple[SpatialTransform, dict[str, Any]]:
    """Invert a transform; the residual of its displacement fields is reported in mm, with its place."""
    logger.info("inverting")
    inverse = ~chain
    left = [(field.residual, field.grid) for field in _fields(inverse) if field.residual is not None]
    if not left:
        return inverse, {}
    for field in _fields(chain):
        # `regplugins.metrics` would import MONAI, which takes longer than the inversion of a small field.
        folded = ~(regplugins.spatial.jacobian_determinant(field.to_ddf()[None]) > 0)
        percent = 100 * float(folded.double().mean())
        if percent > 0:
            logger.warning(_FOLDS, percent)
    residual, grid = max(left, key=lambda pair: float(pair[0].max()))
    largest = float(residual.max())
    place = grid.index_to_world((residual == largest).nonzero()[0].double())
    if largest > _POOR_INVERSE:
        logger.warning("the inverse of a displacement field is off by up to %.1f mm: it did not converge", largest)
    return inverse, {
        "residual_mean_mm": max(float(residual.mean()) for residual, _ in left),
        "residual_max_mm": largest,
        "residual_max_at": [round(coordinate, 3) for coordinate in place.tolist()],
    }


def _fields(transform: SpatialTransform) -> list[DisplacementField]:
    parts = regplugins.spatial.CompositeTransform([transform]).transforms
    return [part for part in parts if isinstance(part, regplugins.spatial.DisplacementField)]


def _check_applied(kind: str, output: str, reference: str | None) -> None:
    """Refuse an output that `apply` cannot write, before anything is read."""
    if kind == "landmarks":
        if not str(output).endswith(".csv"):
            raise ValueError(f"{output}: landmarks are written as .csv")
    elif not str(output).endswith((".nii", ".nii.gz")):
        raise ValueError(f"{output}: an image is written as .nii or .nii.gz")
    elif reference is None:
        raise ValueError("give --reference, the scan whose grid the result gets")
    regplugins.io.in_existing_folder(output)


def _map_landmarks(transform: SpatialTransform, path: str, output: str, space: str) -> None:
    points = regplugins.io.read_landmarks(path, space)
    if points.shape[1] != transform.ndim:
        raise ValueError(f"{path}: {points.shape[1]}-D points, the transform is {transform.ndim}-D")
    inner: SpatialTransform = regplugins.spatial.AffineTransform.identity(transform.ndim)
    for part in reversed(regplugins.spatial.CompositeTransform([transform]).transforms):
        if isinstance(part, regplugins.spatial.DisplacementField):  # outside it is extrapolated from its border
            names = path, "the grid of the displacement field that is applied first"
            _, message = regplugins.io.landmarks_outside(points, part.grid, names, space, inner)
            if message:
                logger.warning("%s", message)
            break
        inner = part @ inner
    regplugins.io.write_landmarks(transform(points), output, space, regplugins.io.read_landmark_names(path))


def _resample_file(
    chain: SpatialTransform,
    kind: str,
    path: str,
    output: str,
    reference: str | None,
    interpolation: str,
    fill: float | None,
) -> None:
    target = regplugins.io.load_grid(reference)
    volume = regplugins.io.read_label(path) if kind == "label" else regplugins.io.read_image(path)
    source = volume.grid
    for name, grid in ((reference, target), (path, source)):
        if grid.ndim != chain.ndim:
            raise ValueError(f"{name}: {grid.ndim}-D, the transform is {chain.ndim}-D")
    if not regplugins.spatial.overlap(target, source, chain):
        raise ValueError(f"{reference} and {path} do not overlap through the transform: the result would be empty")
    logger.info("resampling %s", path)
    if kind == "label":
        result = regplugins.spatial.resample_labels(volume.values, source, target, chain)
        regplugins.io.write_image(result, target, output, volume.stored_dtype)
    else:
        fill = regplugins.spatial.outside_value(volume.values, fill)
        result = regplugins.spatial.resample(volume.values, source, target, chain, interpolation, fill)
        regplugins.io.write_image(result, target, output)
