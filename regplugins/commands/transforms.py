# SPDX-License-Identifier: Apache-2.0
"""`apply`, `compose`, `convert` and `invert`: work with transform files of any tool."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import regplugins  # its parts, and MONAI with them, are loaded when a command needs them: help should not wait

if TYPE_CHECKING:
    from torch import Tensor

    from regplugins.spatial import DisplacementField, SpatialTransform

logger = logging.getLogger(__name__)

# Largest residual in mm from which an inverse is not to be trusted.
_POOR_INVERSE = 0.5
_FOLDS = (
    "a displacement field folds at %.3g %% of its voxels: there it has no inverse, and the result holds one of the "
    "points that it carries to the same place"
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
    backwards = regplugins.checks.boolean("inverse", inverse)
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
    _check_applied(kind, output, reference)
    logger.info("reading %d transforms", len(transforms))
    chain = regplugins.io.read_chain(transforms)
    result: dict[str, Any] = {}
    if backwards:
        chain, result = _inverted(chain)
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
    return _write(transforms, output, reference)


def convert(transform: str, output: str, reference: str | None = None) -> dict[str, Any]:
    """Write a transform file in another form; the endings say which.

    Args:
        transform: .mat, .tfm, .txt, .h5 or .nii.gz.
        output: .mat, .tfm, .txt (affine transforms), .h5 (any) or .nii.gz (a displacement field).
        reference: scan whose grid a displacement field gets. Default: that of the field that is applied
            first.
    """
    return _write([transform], output, reference)


def invert(*transforms: str, output: str, reference: str | None = None) -> dict[str, Any]:
    """Write the inverse of a transform, or of several one after the other.

    Affine parts are inverted exactly, displacement fields iteratively: the command says what that leaves, in mm, and
    where (RAS mm). Where a field folds, several points go to one place and no inverse exists: a warning says so.

    Args:
        transforms: files in the order of antsApplyTransforms.
        output: as for compose.
        reference: scan whose grid a displacement field gets: the moving one. Default: that of the field that is
            applied first.
    """
    return _write(transforms, output, reference, inverse=True)


def _write(files: Sequence[str], output: str, reference: str | None, inverse: bool = False) -> dict[str, Any]:
    """Write the transform that files make together, or its inverse, in the form that the output's name asks for."""
    names = regplugins.io.chain_files(files)
    regplugins.io.keep_inputs(output, [*names, reference])
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
    """The inverse, and of its displacement fields how far, in mm, and where they are from being inverses."""
    logger.info("inverting")
    inverse = ~chain
    left = [(field.residual, field.grid) for field in _fields(inverse) if field.residual is not None]
    if not left:
        return inverse, {}
    for field in _fields(chain):
        determinant = regplugins.spatial.jacobian_determinant(field.to_ddf()[None])
        percent = float(regplugins.metrics.folding_percent(determinant))
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
    """Refuse an output of `apply` before anything is read."""
    if kind == "landmarks":
        if not str(output).endswith(".csv"):
            raise ValueError(f"{output}: landmarks are written as .csv")
    elif not str(output).endswith((".nii", ".nii.gz")):
        raise ValueError(f"{output}: an image is written as .nii or .nii.gz")
    elif reference is None:
        raise ValueError("give --reference, the scan whose grid the result gets")
    regplugins.io.in_existing_folder(output)


def _carry_landmarks(transform: SpatialTransform, path: str, output: str, space: str) -> None:
    points = regplugins.io.read_landmarks(path, space)
    if points.shape[1] != transform.ndim:
        raise ValueError(f"{path}: {points.shape[1]}-D points, the transform is {transform.ndim}-D")
    _warn_outside(transform, points, path, space)
    regplugins.io.write_landmarks(transform(points), output, space, regplugins.io.read_landmark_names(path))


def _warn_outside(transform: SpatialTransform, points: Tensor, path: str, space: str) -> None:
    """Warn of points outside the displacement field that is applied first: it continues from its border there."""
    inner: SpatialTransform = regplugins.spatial.AffineTransform.identity(transform.ndim)
    for part in reversed(regplugins.spatial.CompositeTransform([transform]).transforms):
        if isinstance(part, regplugins.spatial.DisplacementField):
            names = path, "the grid of the displacement field that is applied first"
            _, message = regplugins.io.landmarks_outside(points, part.grid, names, space, inner)
            if message:
                logger.warning("%s", message)
            return
        inner = part @ inner


def _resample_file(
    transform: SpatialTransform,
    kind: str,
    path: str,
    output: str,
    reference: str | None,
    interpolation: str,
    fill: float,
) -> None:
    target = regplugins.io.load_grid(reference)
    volume = regplugins.io.load_label(path) if kind == "label" else regplugins.io.load_image(path)
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
